// Package costkernel answers what BLIS's coming kernel interface asks of a cost model: a step's time with its parts by resource,
// overheads, memory of a rank and the origin of each coefficient. The types have that interface's shape, so that an adapter
// converts them in a line each; the example embeds another kernel, which answers the rest (transfers, resolution).
//
//	kernel := costkernel.New(h3, costkernel.Options{TiedEmbeddings: tied})
//	step := costkernel.Price(kernel, batch.Reqs) // of any request type of the four counts; does not allocate
//
// All methods are pure functions of arguments and deployment: any number of goroutines may call them.
package costkernel

import (
	"math"
	"time"

	"github.com/inference-sim/h3/go/h3bundle"
)

// blockTokens of vLLM's KV cache where nothing else is said.
const blockTokens = 16

// Options are what a deployment has beside its h3bundle.Deployment.
type Options struct {
	TiedEmbeddings bool // one matrix is input embedding and LM head (h3bundle.TiesEmbeddings)
	BlockTokens    int  // tokens of a KV block; 0: 16
}

// Kernel prices one deployment.
type Kernel struct {
	h3          *h3bundle.Kernel
	resources   [len(h3bundle.TermNames)]int // of the base's terms
	tied        bool
	blockTokens int64
}

// New wraps a kernel.
func New(h3 *h3bundle.Kernel, options Options) *Kernel {
	k := &Kernel{h3: h3, tied: options.TiedEmbeddings, blockTokens: int64(options.BlockTokens)}
	if k.blockTokens <= 0 {
		k.blockTokens = blockTokens
	}
	overPCIe := h3.Origin().OverPCIe
	for i, name := range h3bundle.TermNames {
		k.resources[i] = resourceOf[name]
		if overPCIe && k.resources[i] == nvLink {
			k.resources[i] = pcie
		}
	}
	return k
}

// resourceOf a term; what is not named here is the host's.
var resourceOf = map[string]int{
	"weights_us": hbm, "kv_us": hbm,
	"compute_excess_us": sm, "prefill_attention_us": sm, "attention_waves": sm, "sampler_us": sm,
	"all_reduce_us": nvLink, "two_shots": nvLink,
	"layers": host, "moe_layers": host, "requests": host, "step": host,
}

// Step is a step's time and its parts, in the order of Resources, which add up to it exactly.
type Step struct {
	Expected   time.Duration
	Bottleneck Resource
	Parts      [numResources]time.Duration
}

// Price prices a step of requests of any type that has the four counts in this order. Cached tokens count as computed, whether
// or not Computed has them. Several tokens of a request whose prompt is computed (speculation) count as decode tokens that
// attend to its context; no such step was ever measured.
func Price[R ~struct{ Scheduled, Computed, PromptLen, CachedTokens int }](k *Kernel, requests []R) Step {
	c := k.h3.Composition()
	for i := range requests {
		r := ReqShape(requests[i])
		computed, scheduled, prompt := int64(max(r.Computed, r.CachedTokens)), int64(r.Scheduled), int64(r.PromptLen)
		if !c.AddDecode(computed, scheduled, prompt) {
			c.Add(computed, scheduled, prompt)
		}
	}
	return k.split(k.h3.Evaluate(&c))
}

// split divides a prediction among the resources as the base does: the trees' correction is the period's, not a resource's, and
// stretches all parts alike. What rounding leaves goes to the largest.
func (k *Kernel) split(p h3bundle.Prediction) Step {
	us := min(p.US, h3bundle.MaxPeriodUS)
	if !(us >= 1) {
		us = 1
	}
	var base [numResources]float64
	for i, part := range p.Parts {
		base[k.resources[i]] += part
	}
	largest := host
	for i := range base {
		if base[i] > base[largest] {
			largest = i
		}
	}
	step := Step{Expected: nanoseconds(us), Bottleneck: resources[largest]}
	rest := step.Expected
	for i := range base {
		if share := base[i] / p.BaseUS; i != largest && share > 0 && share <= 1 {
			step.Parts[i] = time.Duration(share * float64(step.Expected))
			rest -= step.Parts[i]
		}
	}
	step.Parts[largest] = rest
	return step
}

func nanoseconds(us float64) time.Duration { return time.Duration(math.Floor(us*1e3 + 0.5)) }

// PerResource are a step's parts by resource as a map of any string type; those that are 0 are left out.
func PerResource[R ~string](s Step) map[R]time.Duration {
	parts := make(map[R]time.Duration, numResources)
	for i, part := range s.Parts {
		if part > 0 {
			parts[R(resources[i])] = part
		}
	}
	return parts
}

// StepTime prices a step. h3 learned one number, the measured period, in which operations overlap as they did: with and without
// overlap are that number, too. Bottleneck is the largest part.
func (k *Kernel) StepTime(batch Batch) StepEstimate {
	s := Price(k, batch.Reqs)
	return StepEstimate{s.Expected, s.Expected, s.Expected, s.Bottleneck, PerResource[Resource](s)}
}

// AdmissionOverhead is the time from a request's arrival until a step can take it: a constant, whatever the prompt's length.
// The manifest's pipeline_steps, waited in the running steps' periods, depend on the engine's state and are not in it.
func (k *Kernel) AdmissionOverhead(promptTokens int) time.Duration {
	return nanoseconds(k.h3.Overheads().QueueingUS)
}

// OutputTokenOverhead is 0 in h3's bundles: the period holds all of a token's work.
func (k *Kernel) OutputTokenOverhead() time.Duration {
	return nanoseconds(k.h3.Overheads().OutputTokenUS)
}

// CompletionOverhead is the time from a request's last token to its response; a constant of the bundle.
func (k *Kernel) CompletionOverhead() time.Duration {
	return nanoseconds(k.h3.Overheads().PostDecodeUS)
}

// FixedBytes are a rank's weights. Activations, CUDA graphs and communication buffers are 0, which stands for "not counted":
// they do take memory.
func (k *Kernel) FixedBytes() MemoryBreakdown {
	return MemoryBreakdown{Weights: k.h3.WeightBytes(k.tied)}
}

// SequenceFixedBytes is 0: h3 serves no model with recurrent state.
func (k *Kernel) SequenceFixedBytes() int64 { return 0 }

// SequenceVariableBytes is a request's KV cache on a rank, in whole blocks; layers with a window keep no more than it touches.
func (k *Kernel) SequenceVariableBytes(tokens int) int64 {
	return k.h3.KVBytes(int64(tokens), k.blockTokens)
}
