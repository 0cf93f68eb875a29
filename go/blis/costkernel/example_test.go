package costkernel_test

import (
	"fmt"
	"time"

	"github.com/inference-sim/h3/go/blis/costkernel"
	"github.com/inference-sim/h3/go/blis/costkernel/internal/simulator"
	"github.com/inference-sim/h3/go/h3bundle"
	"github.com/inference-sim/h3/go/h3bundle/champion"
)

// served is a kernel of the simulator's in which h3 answers what it was trained for; transfers and resolution stay as they are.
type served struct {
	simulator.Kernel
	h3 *costkernel.Kernel
}

var _ simulator.Kernel = served{}

func (s served) StepTime(batch simulator.Batch) simulator.StepEstimate {
	step := costkernel.Price(s.h3, batch.Reqs)
	return simulator.StepEstimate{
		Overlap: step.Expected, NoOverlap: step.Expected, Expected: step.Expected,
		Bottleneck: simulator.Resource(step.Bottleneck), PerResource: costkernel.PerResource[simulator.Resource](step),
	}
}

func (s served) AdmissionOverhead(prompt int) time.Duration { return s.h3.AdmissionOverhead(prompt) }
func (s served) OutputTokenOverhead() time.Duration         { return s.h3.OutputTokenOverhead() }
func (s served) CompletionOverhead() time.Duration          { return s.h3.CompletionOverhead() }

// FixedBytes has h3's weights, and the simulator's own count of what h3 does not.
func (s served) FixedBytes() simulator.MemoryBreakdown {
	memory := s.Kernel.FixedBytes()
	memory.Weights = s.h3.FixedBytes().Weights
	return memory
}

func (s served) SequenceFixedBytes() int64 { return s.h3.SequenceFixedBytes() }
func (s served) SequenceVariableBytes(tokens int) int64 {
	return s.h3.SequenceVariableBytes(tokens)
}

func (s served) Provenance() []simulator.CoefficientOrigin {
	rows := s.Kernel.Provenance()
	for _, row := range s.h3.Provenance() {
		rows = append(rows, simulator.CoefficientOrigin(row))
	}
	return rows
}

const llama70B = `{"model_type": "llama", "num_hidden_layers": 80, "hidden_size": 8192, "num_attention_heads": 64,
	"num_key_value_heads": 8, "intermediate_size": 28672, "vocab_size": 32000}`

// A simulator's own kernel, with h3 for steps, overheads and memory.
func Example() {
	bundle, err := h3bundle.Load(champion.Files, ".")
	if err != nil {
		panic(err)
	}
	architecture, err := h3bundle.ParseConfig([]byte(llama70B))
	if err != nil {
		panic(err)
	}
	tied, err := h3bundle.TiesEmbeddings([]byte(llama70B))
	if err != nil {
		panic(err)
	}
	h3, err := bundle.Kernel(h3bundle.Deployment{Architecture: architecture, TensorParallelism: 4, Hardware: "H100"})
	if err != nil {
		panic(err)
	}
	own := simulator.Own{LinkBytesS: 50e9, KVBytesPerToken: 81920}
	var kernel simulator.Kernel = served{own, costkernel.New(h3, costkernel.Options{TiedEmbeddings: tied})}

	step := kernel.StepTime(simulator.Batch{Reqs: []simulator.ReqShape{
		{Scheduled: 1, Computed: 700, PromptLen: 512}, {Scheduled: 256, PromptLen: 512},
	}})
	sum := time.Duration(0)
	for _, part := range step.PerResource {
		sum += part
	}
	fmt.Println("parts add up:", sum == step.Expected, "- most of it:", step.Bottleneck)
	fmt.Println("weights:", kernel.FixedBytes().Weights, "KV of 1000 tokens:", kernel.SequenceVariableBytes(1000))
	fmt.Println("its transfer of 1000 tokens:", kernel.PDTransferTime(1000, simulator.Placement{}, simulator.Placement{Node: 1}))
	// Output:
	// parts add up: true - most of it: hbm
	// weights: 34487664640 KV of 1000 tokens: 82575360
	// its transfer of 1000 tokens: 1.6384ms
}
