package standin

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"github.com/inference-sim/h3/go/blis"
	"github.com/inference-sim/h3/go/h3bundle"
)

// Scenario is a file of requests and the deployments that serve them, as h3's scripts write it.
//
// A request is a list: arrival_us, prompt_tokens, output_tokens, cached_tokens, prefix_group.
type Scenario struct {
	Rows        [][5]int64   `json:"requests"`
	Deployments []Deployment `json:"deployments"`
}

// Deployment is a model on its accelerators, the limits of its server, and what h3's own replay gives for it, where known: us a
// request.
type Deployment struct {
	Name       string          `json:"name"`
	Config     json.RawMessage `json:"config"`
	Generation json.RawMessage `json:"generation_config"`
	TP         int             `json:"tensor_parallelism"`
	Hardware   string          `json:"hardware"`
	Limits     Limits          `json:"limits"`
	Expected   struct {
		TTFTUS      []float64 `json:"ttft_us"`
		E2EUS       []float64 `json:"e2e_us"`
		Preemptions []int     `json:"preemptions"`
		Steps       int       `json:"steps"`
	} `json:"expected"`
}

// ReadScenario reads a scenario's file.
func ReadScenario(name string) (*Scenario, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	scenario := &Scenario{}
	if err := json.Unmarshal(data, scenario); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return scenario, nil
}

// Requests are the scenario's, new for every run.
func (s *Scenario) Requests() []*Request {
	requests := make([]*Request, len(s.Rows))
	for i, row := range s.Rows {
		requests[i] = &Request{
			ID: strconv.Itoa(i), ArrivalUS: row[0], InputTokens: row[1], OutputTokens: row[2], PrefixTokens: row[3], PrefixGroup: row[4],
		}
	}
	return requests
}

// Model is h3's latency model of a deployment, new for every run.
func (d *Deployment) Model(bundle *h3bundle.Bundle) (LatencyModel, error) {
	kernel, err := blis.Prepare(blis.Config{
		Bundle: bundle, ConfigJSON: d.Config, GenerationJSON: d.Generation, GPU: blis.GPU{Name: d.Hardware}, TP: d.TP,
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Name, err)
	}
	return blis.New(kernel, blis.Hooks[*Request]{Count: count}), nil
}

func count(step *h3bundle.Composition, batch []*Request) {
	for _, r := range batch {
		computed, scheduled, prompt := max(r.ProgressIndex, r.CachedTokens), int64(r.NumNewTokens), int64(r.InputLen())
		if !step.AddDecode(computed, scheduled, prompt) {
			step.Add(computed, scheduled, prompt)
		}
	}
}
