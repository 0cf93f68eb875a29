package h3bundle

import (
	"encoding/json"
	"fmt"
)

// Request is a request as h3's batch files have it: an object, or a list [progress_index, new_tokens, prompt_tokens].
type Request struct {
	ProgressIndex int64 `json:"progress_index"`
	NewTokens     int64 `json:"new_tokens"`
	PromptTokens  int64 `json:"prompt_tokens"`
}

// UnmarshalJSON reads either form and refuses numbers outside 0 to 2^31-1.
func (r *Request) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '[' {
		var values []int64
		if err := json.Unmarshal(data, &values); err != nil {
			return err
		}
		if len(values) != 3 {
			return fmt.Errorf("request of %d numbers; expected progress_index, new_tokens, prompt_tokens", len(values))
		}
		*r = Request{values[0], values[1], values[2]}
		return r.check()
	}
	var fields struct {
		ProgressIndex *int64 `json:"progress_index"`
		NewTokens     *int64 `json:"new_tokens"`
		PromptTokens  *int64 `json:"prompt_tokens"`
	}
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	if fields.ProgressIndex == nil || fields.NewTokens == nil || fields.PromptTokens == nil {
		return fmt.Errorf("request without progress_index, new_tokens or prompt_tokens")
	}
	*r = Request{*fields.ProgressIndex, *fields.NewTokens, *fields.PromptTokens}
	return r.check()
}

func (r *Request) check() error {
	for _, value := range []int64{r.ProgressIndex, r.NewTokens, r.PromptTokens} {
		if value < 0 || value > maxTokens {
			return fmt.Errorf("request %v; expected whole numbers from 0 to 2^31-1", *r)
		}
	}
	return nil
}

// ParseBatch reads a batch file: a list of requests, or an object with the list under "requests".
func ParseBatch(data []byte) ([]Request, error) {
	var requests []Request
	var object struct {
		Requests []Request `json:"requests"`
	}
	err := decode(data, false, &requests)
	if err != nil {
		if other := decode(data, true, &object); other != nil {
			return nil, fmt.Errorf("batch: expected a list of requests or {\"requests\": [...]}: %w", other)
		}
		requests = object.Requests
	}
	return requests, nil
}

// Case is a batch on a deployment, as a line of h3eval's -cases and a vector of golden.json say it.
type Case struct {
	Config            json.RawMessage `json:"config"`
	TensorParallelism int             `json:"tensor_parallelism"`
	Hardware          string          `json:"hardware"`
	TruncatedSampling bool            `json:"truncated_sampling"`
	Requests          []Request       `json:"requests"`
}

// IntervalsOf prepares the intervals of a case's deployment.
func (b *Bundle) IntervalsOf(c Case, level float64) (*Intervals, error) {
	arch, err := ParseConfig(c.Config)
	if err != nil {
		return nil, err
	}
	return b.Intervals(c.on(arch), level)
}

// KernelOf prepares the deployment of a case whose config is the HuggingFace config itself.
func (b *Bundle) KernelOf(c Case) (*Kernel, error) {
	arch, err := ParseConfig(c.Config)
	if err != nil {
		return nil, err
	}
	return b.Kernel(c.on(arch))
}

func (c *Case) on(arch Architecture) Deployment {
	return Deployment{
		Architecture: arch, TensorParallelism: c.TensorParallelism, Hardware: c.Hardware, TruncatedSampling: c.TruncatedSampling,
	}
}
