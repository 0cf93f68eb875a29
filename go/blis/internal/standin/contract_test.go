package standin_test

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/inference-sim/h3/go/blis/internal/standin"
	"github.com/inference-sim/h3/go/h3bundle"
)

// scripts/make_blis_scenario.py writes the scenario, with what h3's own replay gives; a Python test holds it to that.
var (
	scenarioFile = filepath.Join("..", "..", "testdata", "scenario.json")
	goldenBundle = filepath.Join("..", "..", "..", "h3bundle", "testdata", "bundle")
)

// watched notes what kinds of batch a model was asked about.
type watched struct {
	standin.LatencyModel
	chunks, prefixes, mixed, recomputed int
}

func (w *watched) StepTime(batch []*standin.Request) int64 {
	prefills, decodes := 0, 0
	for _, r := range batch {
		inputLen, newTokens := int64(r.InputLen()), int64(r.NumNewTokens)
		if r.ProgressIndex >= inputLen {
			decodes++
			continue
		}
		prefills++
		if max(r.ProgressIndex, r.CachedTokens)+newTokens < inputLen {
			w.chunks++
		}
		if r.ProgressIndex == 0 && r.CachedTokens > 0 {
			w.prefixes++
		}
		if inputLen > r.InputTokens {
			w.recomputed++
		}
	}
	if prefills > 0 && decodes > 0 {
		w.mixed++
	}
	return w.LatencyModel.StepTime(batch)
}

func TestAWholeSimulationAgreesWithH3sOwnReplay(t *testing.T) {
	bundle, err := h3bundle.Open(goldenBundle)
	if err != nil {
		t.Fatal(err)
	}
	scenario, err := standin.ReadScenario(scenarioFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, deployment := range scenario.Deployments {
		t.Run(deployment.Name, func(t *testing.T) {
			h3, err := deployment.Model(bundle)
			if err != nil {
				t.Fatal(err)
			}
			model := &watched{LatencyModel: h3}
			result, err := standin.Run(scenario.Requests(), deployment.Limits, model)
			if err != nil {
				t.Fatal(err)
			}
			agree(t, result, &deployment)
			everythingHappened(t, scenario, result, model)
		})
	}
}

// agree holds every request's times to 0.1 % (E2E agrees to 4e-5, TTFT to 2e-4: whole us here, fractions there).
func agree(t *testing.T, result standin.Result, deployment *standin.Deployment) {
	t.Helper()
	expected := &deployment.Expected
	if result.Steps != expected.Steps {
		t.Errorf("%d steps; expected %d", result.Steps, expected.Steps)
	}
	for i, outcome := range result.Outcomes {
		for _, pair := range [][2]float64{{float64(outcome.TTFTUS), expected.TTFTUS[i]}, {float64(outcome.E2EUS), expected.E2EUS[i]}} {
			if math.Abs(pair[0]/pair[1]-1) > 1e-3 {
				t.Errorf("request %d takes %.0f us; expected %.0f", i, pair[0], pair[1])
			}
		}
		if outcome.Preemptions != expected.Preemptions[i] {
			t.Errorf("request %d is preempted %d times; expected %d", i, outcome.Preemptions, expected.Preemptions[i])
		}
	}
}

// everythingHappened says whether the scenario brings what it is there for.
func everythingHappened(t *testing.T, scenario *standin.Scenario, result standin.Result, model *watched) {
	t.Helper()
	queued, preempted := 0, 0
	for i, outcome := range result.Outcomes {
		if outcome.ScheduledUS > scenario.Rows[i][0]+1_000_000 {
			queued++
		}
		preempted += outcome.Preemptions
	}
	for name, count := range map[string]int{
		"requests that wait more than a second": queued, "chunks": model.chunks, "cached prefixes": model.prefixes,
		"prefills beside decoding requests": model.mixed, "preemptions": preempted, "recomputed requests": model.recomputed,
	} {
		if count < 5 {
			t.Errorf("%d %s; expected at least 5", count, name)
		}
	}
}
