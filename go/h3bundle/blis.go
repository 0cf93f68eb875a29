package h3bundle

import "math"

// BLIS adapts a Kernel to the latency model that BLIS asks for today, all in int64 us, for BLIS's own request type R:
//
//	model := h3bundle.NewBLIS(kernel, func(r *sim.Request) h3bundle.Tokens {
//		return h3bundle.Tokens{Computed: r.ProgressIndex, Scheduled: int64(r.NumNewTokens), Prompt: int64(r.InputLen())}
//	})
//	model.StepTime(batch) // batch []*sim.Request
type BLIS[R any] struct {
	kernel *Kernel
	read   func(R) Tokens
}

// NewBLIS makes the adapter; read gives a request's ProgressIndex, NumNewTokens and InputLen.
func NewBLIS[R any](kernel *Kernel, read func(R) Tokens) *BLIS[R] { return &BLIS[R]{kernel, read} }

// StepTime is the full period of a step, at least 1.
func (b *BLIS[R]) StepTime(batch []R) int64 { return round(PeriodUS(b.kernel, batch, b.read)) }

// QueueingTime is the time from a request's arrival to the wait queue; a constant of the bundle.
func (b *BLIS[R]) QueueingTime(R) int64 { return round(b.kernel.overheads.QueueingUS) }

// OutputTokenProcessingTime is 0: the period holds all of a token's work.
func (b *BLIS[R]) OutputTokenProcessingTime() int64 { return round(b.kernel.overheads.OutputTokenUS) }

// PostDecodeFixedOverhead is the time from a request's last token to its response; a constant of the bundle.
func (b *BLIS[R]) PostDecodeFixedOverhead() int64 { return round(b.kernel.overheads.PostDecodeUS) }

func round(us float64) int64 { return int64(math.Floor(us + 0.5)) }
