package blis

import (
	"math"

	"github.com/inference-sim/h3/go/h3bundle"
)

// Hooks connect BLIS's request type R. Count is needed; a hook that is nil changes nothing.
type Hooks[R any] struct {
	// Count adds a batch's requests to an empty step: for each its tokens computed before (ProgressIndex; at the first chunk,
	// where BLIS leaves them out, those that a prefix cache held), its NumNewTokens and its InputLen(). It is called once a step,
	// with a loop over the batch in it: a call for each request would take longer than all the rest.
	//
	//	for _, r := range batch {
	//		computed := max(r.ProgressIndex, r.CachedTokens)
	//		if !step.AddDecode(computed, int64(r.NumNewTokens), r.InputLen()) {
	//			step.Add(computed, int64(r.NumNewTokens), r.InputLen())
	//		}
	//	}
	Count func(step *h3bundle.Composition, batch []R)
	// StepFactor multiplies a step's time, as LoRA adapters in its batch slow it down; what is below 1 or no number counts as 1.
	StepFactor func(batch []R) float64
	// RequestUS is added to what a request waits before it can be scheduled, as the loading of its adapter.
	RequestUS func(R) int64
}

// LatencyModel has the four methods of BLIS's latency model, all in int64 us. One belongs to one instance and is not for several
// goroutines at once: it remembers the last step's period, in which the steps count that are already scheduled when a request
// arrives.
type LatencyModel[R any] struct {
	kernel *h3bundle.Kernel
	hooks  Hooks[R]
	step   h3bundle.Composition // of the step that is being counted; here, so that none is allocated
	lastUS int64
}

// New makes the latency model of one instance.
func New[R any](kernel *h3bundle.Kernel, hooks Hooks[R]) *LatencyModel[R] {
	return &LatencyModel[R]{kernel: kernel, hooks: hooks}
}

// StepTime is the full period of a step, at least 1.
func (m *LatencyModel[R]) StepTime(batch []R) int64 {
	m.step = m.kernel.Composition()
	m.hooks.Count(&m.step, batch)
	us := m.kernel.PeriodUS(&m.step)
	if m.hooks.StepFactor != nil {
		if factor := m.hooks.StepFactor(batch); factor > 1 && !math.IsInf(factor, 0) {
			us = min(us*factor, h3bundle.MaxPeriodUS)
		}
	}
	period := round(us)
	m.lastUS = period
	return period
}

// QueueingTime is the time from a request's arrival until a step can take it: a constant, and the steps that an asynchronous
// scheduler has already made, each as long as the last one. Before the first step there are none.
func (m *LatencyModel[R]) QueueingTime(request R) int64 {
	overheads := m.kernel.Overheads()
	us := round(overheads.QueueingUS + overheads.PipelineSteps*float64(m.lastUS))
	if m.hooks.RequestUS != nil {
		us += max(0, m.hooks.RequestUS(request))
	}
	return us
}

// OutputTokenProcessingTime is 0: the period holds all of a token's work.
func (m *LatencyModel[R]) OutputTokenProcessingTime() int64 {
	return round(m.kernel.Overheads().OutputTokenUS)
}

// PostDecodeFixedOverhead is the time from a request's last token to its response; a constant of the bundle.
func (m *LatencyModel[R]) PostDecodeFixedOverhead() int64 {
	return round(m.kernel.Overheads().PostDecodeUS)
}

func round(us float64) int64 { return int64(math.Floor(us + 0.5)) }
