package costkernel

import "time"

// Resource is what a part of a step's time is spent on.
type Resource string

var resources = [numResources]Resource{"sm", "hbm", "nvlink", "pcie", "host"}

// Resources that h3's terms name, in the order of Step.Parts. NIC and copy engine are never among them.
func Resources() [numResources]Resource { return resources }

const (
	sm = iota
	hbm
	nvLink
	pcie
	host
	numResources
)

// ReqShape has the tokens of one request: those of this step, those computed before it, its prompt's, and those of the prompt
// that a prefix cache held, which Scheduled leaves out.
type ReqShape struct {
	Scheduled, Computed, PromptLen, CachedTokens int
}

// Batch is a step's requests, and engine state that h3 does not read: the threshold below which attention takes the kernel of
// decoding, and the SMs that a concurrent transfer leaves. Measured steps had the engine's own of both.
type Batch struct {
	Reqs                      []ReqShape
	DecodeThreshold, SMBudget int
}

// StepEstimate is a step's time.
type StepEstimate struct {
	Overlap, NoOverlap, Expected time.Duration
	Bottleneck                   Resource
	PerResource                  map[Resource]time.Duration
}

// MemoryBreakdown is what a rank holds before any request comes, bytes; h3 counts weights alone.
type MemoryBreakdown struct {
	Weights, ActivationPeak, CUDAGraph, EPLBRedundant, CommBuffers int64
}

// Total is the sum.
func (m MemoryBreakdown) Total() int64 {
	return m.Weights + m.ActivationPeak + m.CUDAGraph + m.EPLBRedundant + m.CommBuffers
}

// CoefficientOrigin says where a number comes from: its name, the set that holds it, how it was found, and for what it holds.
type CoefficientOrigin struct {
	Name, Set, Method, Scope string
}
