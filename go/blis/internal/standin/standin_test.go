package standin_test

import (
	"slices"
	"testing"

	"github.com/inference-sim/h3/go/blis/internal/standin"
)

// steady is a model whose steps take 100 us and 1 us a token.
type steady struct{ queueing, token, postDecode int64 }

func (s steady) StepTime(batch []*standin.Request) int64 {
	us := int64(100)
	for _, r := range batch {
		us += int64(r.NumNewTokens)
	}
	return us
}

func (s steady) QueueingTime(*standin.Request) int64 { return s.queueing }

func (s steady) OutputTokenProcessingTime() int64 { return s.token }

func (s steady) PostDecodeFixedOverhead() int64 { return s.postDecode }

func run(t *testing.T, limits standin.Limits, model standin.LatencyModel, requests ...*standin.Request) standin.Result {
	t.Helper()
	result, err := standin.Run(requests, limits, model)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestARequestsTimesAreItsQueueingStepsTokensAndEnd(t *testing.T) {
	model := steady{queueing: 9, token: 2, postDecode: 40}
	request := &standin.Request{ArrivalUS: 1000, InputTokens: 30, OutputTokens: 3, PrefixGroup: -1}
	result := run(t, standin.Limits{KVBlocks: 100}, model, request)
	// 9 us, a step of 130 and its token of 2; two steps of 101 with theirs; 40 at the end.
	want := standin.Outcome{TTFTUS: 141, ITLSumUS: 206, E2EUS: 387, ScheduledUS: 1009}
	if result.Outcomes[0] != want || result.Steps != 3 {
		t.Errorf("%+v in %d steps; expected %+v in 3", result.Outcomes[0], result.Steps, want)
	}
}

// A request that arrives during a step joins the next one, and a prompt beyond the budget is computed in chunks.
func TestStepsRunBackToBackAndPromptsAreChunked(t *testing.T) {
	limits := standin.Limits{KVBlocks: 100, MaxBatchedTokens: 50, MaxRunning: 8}
	result := run(t, limits, steady{},
		&standin.Request{InputTokens: 20, OutputTokens: 9, PrefixGroup: -1},
		&standin.Request{ArrivalUS: 5, InputTokens: 60, OutputTokens: 1, PrefixGroup: -1})
	// Steps of 120 us, of 1 + 49 tokens, of 1 + 11.
	if outcome := result.Outcomes[1]; outcome.ScheduledUS != 120 || outcome.TTFTUS != 120+150+112-5 {
		t.Errorf("%+v; expected to be scheduled at 120 and a first token after 377 us", outcome)
	}
}

// Two blocks are shared: without them the third request would not fit beside the others.
func TestACachedPrefixIsNeitherComputedNorStoredTwice(t *testing.T) {
	var requests []*standin.Request
	for range 3 {
		requests = append(requests, &standin.Request{InputTokens: 48, OutputTokens: 1, PrefixTokens: 35, PrefixGroup: 0})
	}
	result := run(t, standin.Limits{KVBlocks: 5}, steady{}, requests...)
	if outcome := result.Outcomes[2]; result.Steps != 1 || outcome.TTFTUS != 100+3*16 {
		t.Errorf("%+v in %d steps; expected one step of 3 x 16 tokens", outcome, result.Steps)
	}
}

func TestTheLatestIsPreemptedAndPrefilledAgainWithItsOutput(t *testing.T) {
	var asked []int
	model := &spy{LatencyModel: steady{}, saw: func(batch []*standin.Request) {
		for _, r := range batch {
			asked = append(asked, r.NumNewTokens)
		}
	}}
	result := run(t, standin.Limits{KVBlocks: 3}, model,
		&standin.Request{InputTokens: 15, OutputTokens: 4, PrefixGroup: -1},
		&standin.Request{InputTokens: 15, OutputTokens: 4, PrefixGroup: -1})
	// Both prompts, two tokens a step while both fit, at token 17 the first one alone, then the second with 15 + 2 tokens.
	if want := []int{15, 15, 1, 1, 1, 1, 17, 1}; !slices.Equal(asked, want) {
		t.Errorf("tokens %v; expected %v", asked, want)
	}
	if result.Outcomes[0].Preemptions != 0 || result.Outcomes[1].Preemptions != 1 {
		t.Errorf("%+v; expected the second to be preempted once", result.Outcomes)
	}
}

func TestNoMoreRequestsRunThanMay(t *testing.T) {
	model := &spy{LatencyModel: steady{}, saw: func(batch []*standin.Request) {
		if len(batch) > 2 {
			t.Errorf("%d requests in a step; expected at most 2", len(batch))
		}
	}}
	var requests []*standin.Request
	for range 5 {
		requests = append(requests, &standin.Request{InputTokens: 10, OutputTokens: 3, PrefixGroup: -1})
	}
	if result := run(t, standin.Limits{KVBlocks: 100, MaxRunning: 2}, model, requests...); result.Steps != 9 {
		t.Errorf("%d steps; expected 3 for each of three pairs", result.Steps)
	}
}

// At 120 us the first step ends: the second request, which joins the queue at that time, is in the next one.
func TestWhatHappensWhenAStepEndsIsBeforeTheNextOne(t *testing.T) {
	result := run(t, standin.Limits{KVBlocks: 100}, steady{},
		&standin.Request{InputTokens: 20, OutputTokens: 9, PrefixGroup: -1},
		&standin.Request{ArrivalUS: 120, InputTokens: 10, OutputTokens: 1, PrefixGroup: -1})
	if outcome := result.Outcomes[1]; outcome.ScheduledUS != 120 {
		t.Errorf("scheduled at %d us; expected 120", outcome.ScheduledUS)
	}
}

func TestARequestLongerThanTheCacheIsRejected(t *testing.T) {
	result := run(t, standin.Limits{KVBlocks: 2}, steady{}, &standin.Request{InputTokens: 30, OutputTokens: 4, PrefixGroup: -1})
	if !result.Outcomes[0].Rejected || result.Steps != 0 {
		t.Errorf("%+v; expected it to be rejected", result.Outcomes[0])
	}
}

// patient is a model whose requests wait for two more steps as long as the last one.
type patient struct {
	steady
	lastUS int64
}

func (p *patient) StepTime(batch []*standin.Request) int64 {
	p.lastUS = p.steady.StepTime(batch)
	return p.lastUS
}

func (p *patient) QueueingTime(*standin.Request) int64 { return p.queueing + 2*p.lastUS }

func TestAQueueingTimeIsAskedForOnArrivalBetweenSteps(t *testing.T) {
	result := run(t, standin.Limits{KVBlocks: 100}, &patient{steady: steady{queueing: 10}},
		&standin.Request{InputTokens: 30, OutputTokens: 100, PrefixGroup: -1},
		&standin.Request{ArrivalUS: 350, InputTokens: 1, OutputTokens: 1, PrefixGroup: -1})
	// Steps start at 10, 140, 241, ... The second arrives in one of 101 us and is queued at 350 + 10 + 202 = 562.
	if scheduled := result.Outcomes[1].ScheduledUS; scheduled != 645 {
		t.Errorf("scheduled at %d; expected 645", scheduled)
	}
}

func TestAStepWithoutTimeIsRefused(t *testing.T) {
	_, err := standin.Run([]*standin.Request{{InputTokens: 3, OutputTokens: 1}}, standin.Limits{KVBlocks: 9}, stopped{})
	if err == nil {
		t.Error("no error; expected one that says what a step takes")
	}
}

type stopped struct{ steady }

func (stopped) StepTime([]*standin.Request) int64 { return 0 }

type spy struct {
	standin.LatencyModel
	saw func([]*standin.Request)
}

func (s *spy) StepTime(batch []*standin.Request) int64 {
	s.saw(batch)
	return s.LatencyModel.StepTime(batch)
}
