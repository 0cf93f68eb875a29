// Command bliseval prints the step times that BLIS gets of h3: a JSON case a line in, a JSON answer a line out.
//
//	go run ./cmd/bliseval < cases.jsonl
//
// A case: {"config": {HuggingFace config}, "gpu": {"Name": "H100", "TFlopsPeak": 989.5, ...}, "tp": 2, "dp": 1,
// "expert_parallel": false, "batches": [[[progress_index, new_tokens, prompt_tokens], ...], ...]}, the GPU under the keys of
// BLIS's hardware table. An answer: {"us": [a period a batch]}, or {"error": why h3 cannot serve the deployment}.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/inference-sim/h3/go/blis"
	"github.com/inference-sim/h3/go/h3bundle"
)

func main() {
	if err := answer(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(2)
	}
}

type question struct {
	Config         json.RawMessage      `json:"config"`
	GPU            blis.GPU             `json:"gpu"`
	TP             int                  `json:"tp"`
	DP             int                  `json:"dp"`
	ExpertParallel bool                 `json:"expert_parallel"`
	Batches        [][]h3bundle.Request `json:"batches"`
}

type periods struct {
	US    []float64 `json:"us,omitempty"`
	Error string    `json:"error,omitempty"`
}

func answer(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 1<<20), h3bundle.MaxFileBytes)
	encoder := json.NewEncoder(out)
	for lines.Scan() {
		var asked question
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			return err
		}
		if err := encoder.Encode(asked.answered()); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (q question) answered() (told periods) {
	kernel, err := blis.Prepare(blis.Config{ConfigJSON: q.Config, GPU: q.GPU, TP: q.TP, DP: q.DP, ExpertParallel: q.ExpertParallel})
	if err != nil {
		return periods{Error: err.Error()}
	}
	for _, requests := range q.Batches {
		composition := kernel.Compose(requests)
		told.US = append(told.US, kernel.PeriodUS(&composition))
	}
	return told
}
