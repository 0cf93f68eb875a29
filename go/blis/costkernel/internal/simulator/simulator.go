// Package simulator stands in for the coming kernel interface, for the example and the tests beside it: its types and methods by
// name and shape, and a kernel of the simulator's own that answers what h3 does not.
package simulator

import "time"

// Kernel is what a cost model has to answer.
type Kernel interface {
	FixedBytes() MemoryBreakdown
	SequenceFixedBytes() int64
	SequenceVariableBytes(tokens int) int64
	StepTime(Batch) StepEstimate
	TierTime(tier string, dir Direction, bytes int64, queueDepth int) time.Duration
	PDTransferTime(tokens int, from, to Placement) time.Duration
	AdmissionOverhead(promptTokens int) time.Duration
	OutputTokenOverhead() time.Duration
	CompletionOverhead() time.Duration
	Provenance() []CoefficientOrigin
	Resolved() Resolution
}

// Types of the interface. Those of one list of numbers or texts convert to costkernel's; the others need a line or two.
type (
	MemoryBreakdown struct {
		Weights, ActivationPeak, CUDAGraph, EPLBRedundant, CommBuffers int64
	}
	ReqShape struct {
		Scheduled, Computed, PromptLen, CachedTokens int
	}
	Batch struct {
		Reqs                      []ReqShape
		DecodeThreshold, SMBudget int
	}
	Resource     string
	StepEstimate struct {
		Overlap, NoOverlap, Expected time.Duration
		Bottleneck                   Resource
		PerResource                  map[Resource]time.Duration
	}
	Direction string
	Role      string
	Placement struct {
		Node, Rack int
		Pool       Role
	}
	CoefficientOrigin struct{ Name, Set, Method, Scope string }
	Override          struct{ Field, Requested, Resolved, Reason string }
	Resolution        struct {
		ExpertParallelWidth                                    int
		AllReduceBackend                                       string
		AsyncScheduling, CascadeAttention, SequenceParallelMoE bool
		Overrides                                              []Override
	}
)

// Own is the simulator's kernel: every transfer goes over one link, and nothing else takes time or memory.
type Own struct{ LinkBytesS, KVBytesPerToken float64 }

func (Own) FixedBytes() MemoryBreakdown {
	return MemoryBreakdown{ActivationPeak: 1 << 30, CUDAGraph: 1 << 29}
}
func (Own) SequenceFixedBytes() int64           { return 0 }
func (Own) SequenceVariableBytes(int) int64     { return 0 }
func (Own) StepTime(Batch) StepEstimate         { return StepEstimate{} }
func (Own) AdmissionOverhead(int) time.Duration { return 0 }
func (Own) OutputTokenOverhead() time.Duration  { return 0 }
func (Own) CompletionOverhead() time.Duration   { return 0 }
func (Own) Provenance() []CoefficientOrigin     { return []CoefficientOrigin{{Name: "link"}} }
func (Own) Resolved() Resolution                { return Resolution{ExpertParallelWidth: 1} }
func (o Own) over(bytes float64) time.Duration  { return time.Duration(bytes / o.LinkBytesS * 1e9) }
func (o Own) TierTime(_ string, _ Direction, bytes int64, _ int) time.Duration {
	return o.over(float64(bytes))
}
func (o Own) PDTransferTime(tokens int, _, _ Placement) time.Duration {
	return o.over(float64(tokens) * o.KVBytesPerToken)
}
