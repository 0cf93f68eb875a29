// Package standin is a small inference server in simulated time that asks a latency model what BLIS asks, in BLIS's order: for
// tests of the adapter, and for replays where no BLIS is at hand.
//
//	result, err := standin.Run(requests, standin.Limits{KVBlocks: 7405}, model)
//	result.Outcomes[0].E2EUS
//
// A request arrives, waits its queueing time and joins the queue; steps run back to back while there is work. Batches follow
// vLLM v1, as h3's own scheduler does: first come first served, running requests before waiting ones, prompts in chunks within
// the budget of tokens, KV blocks with cached prefixes, preemption of the latest by recomputation.
package standin

import (
	"container/heap"
	"fmt"
)

// LatencyModel is what BLIS asks, in us: the period of a step, arrival to queue, what is added to every token, and what follows
// a request's last one.
type LatencyModel interface {
	StepTime(batch []*Request) int64
	QueueingTime(r *Request) int64
	OutputTokenProcessingTime() int64
	PostDecodeFixedOverhead() int64
}

// Outcome is what became of a request: us from its arrival to the first token and to the response, and between tokens in sum.
type Outcome struct {
	TTFTUS      int64 `json:"ttft_us"`
	ITLSumUS    int64 `json:"itl_sum_us"`
	E2EUS       int64 `json:"e2e_us"`
	ScheduledUS int64 `json:"scheduled_us"` // when a step first took it
	Preemptions int   `json:"preemptions"`
	Rejected    bool  `json:"rejected"` // longer than the whole KV cache
}

// Result is a run: outcomes in the order of the requests given, and its number of steps.
type Result struct {
	Outcomes []Outcome `json:"outcomes"`
	Steps    int       `json:"steps"`
}

// simulation is the clock: events in order of time, and whether a step is under way.
type simulation struct {
	model    LatencyModel
	server   *server
	events   events
	stepping bool
	steps    int
}

// Run serves the requests to their end; they are changed on the way, so each run needs its own.
func Run(requests []*Request, limits Limits, model LatencyModel) (Result, error) {
	s := simulation{model: model, server: newServer(limits)}
	for i, r := range requests {
		heap.Push(&s.events, event{r.ArrivalUS, arrival, i, r})
	}
	if err := s.run(); err != nil {
		return Result{}, err
	}
	result := Result{Steps: s.steps}
	for _, r := range requests {
		if !r.outcome.Rejected && !r.finished() {
			return Result{}, fmt.Errorf("request %s was never finished", r.ID)
		}
		result.Outcomes = append(result.Outcomes, r.outcome)
	}
	return result, nil
}

// run handles all that happens at a time before the next step starts there.
func (s *simulation) run() error {
	for len(s.events) > 0 {
		now := s.events[0].atUS
		for len(s.events) > 0 && s.events[0].atUS == now {
			s.handle(heap.Pop(&s.events).(event))
		}
		if !s.stepping {
			if err := s.startStep(now); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *simulation) handle(e event) {
	switch e.kind {
	case arrival:
		heap.Push(&s.events, event{e.atUS + s.model.QueueingTime(e.request), queued, e.order, e.request})
	case queued:
		s.server.enqueue(e.request)
	case stepEnd:
		s.stepping = false
		for _, r := range s.server.endStep() {
			s.giveToken(r, e.atUS)
		}
	}
}

func (s *simulation) startStep(now int64) error {
	batch := s.server.schedule(now)
	if len(batch) == 0 {
		return nil
	}
	period := s.model.StepTime(batch)
	if period < 1 {
		return fmt.Errorf("step %d takes %d us; expected at least 1", s.steps, period)
	}
	heap.Push(&s.events, event{atUS: now + period, kind: stepEnd})
	s.stepping = true
	s.steps++
	return nil
}

// giveToken counts the token that a step which ends now gave a request.
func (s *simulation) giveToken(r *Request, now int64) {
	tokenUS := s.model.OutputTokenProcessingTime()
	if r.generated == 1 {
		r.outcome.TTFTUS = now + tokenUS - r.ArrivalUS
	} else {
		r.outcome.ITLSumUS += now - r.lastTokenUS + tokenUS
	}
	r.lastTokenUS = now
	if r.finished() {
		r.outcome.E2EUS = r.outcome.TTFTUS + r.outcome.ITLSumUS + s.model.PostDecodeFixedOverhead()
	}
}
