package h3bundle

import (
	"fmt"
	"path/filepath"
)

// llama2-7b as HuggingFace publishes it, as far as it counts.
const exampleConfig = `{"model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
	"num_key_value_heads": 32, "intermediate_size": 11008, "vocab_size": 32000, "torch_dtype": "float16"}`

func exampleKernel(hardware string) *Kernel {
	bundle, err := Open(filepath.Join("testdata", "bundle"))
	if err != nil {
		panic(err)
	}
	arch, err := ParseConfig([]byte(exampleConfig))
	if err != nil {
		panic(err)
	}
	kernel, err := bundle.Kernel(Deployment{Architecture: arch, TensorParallelism: 1, Hardware: hardware})
	if err != nil {
		panic(err)
	}
	return kernel
}

// A step of 32 requests that decode at 600 tokens of context, and one that adds a chunk of a prompt to it.
func Example() {
	k := exampleKernel("H100")
	step := k.Composition()
	for range 32 {
		step.Add(600, 1, 512)
	}
	decode := k.PeriodUS(&step)
	step.Add(0, 512, 2048)
	mixed := k.PeriodUS(&step)
	fmt.Printf("%.0f ms, with 512 tokens of prefill %.0f ms\n", decode/1e3, mixed/1e3)
	// Output: 9 ms, with 512 tokens of prefill 15 ms
}

// A batch of an engine's own requests, without an allocation: what is no ordinary decoding request is added in full.
func ExampleComposition_AddDecode() {
	type request struct{ computed, scheduled, prompt int64 }
	batch := []request{{600, 1, 512}, {700, 1, 512}, {0, 300, 300}}
	k := exampleKernel("H100")
	step := k.Composition()
	for _, r := range batch {
		if !step.AddDecode(r.computed, r.scheduled, r.prompt) {
			step.Add(r.computed, r.scheduled, r.prompt)
		}
	}
	fmt.Println(step.DecodeReqs, step.PrefillTokens, k.PeriodUS(&step) > 5000)
	// Output: 2 300 true
}

// What a step's time is made of.
func ExampleKernel_Evaluate() {
	k := exampleKernel("H100")
	step := k.Composition()
	step.Add(600, 1, 512)
	p := k.Evaluate(&step)
	largest := 0
	for i, us := range p.Parts {
		if us > p.Parts[largest] {
			largest = i
		}
	}
	fmt.Println(TermNames[largest])
	// Output: weights_us
}

// An accelerator of one's own, named afterwards like the bundle's.
func ExampleBundle_WithCard() {
	bundle, err := Open(filepath.Join("testdata", "bundle"))
	if err != nil {
		panic(err)
	}
	card := Card{
		Name: "MI300X", PeakBF16FLOPs: 1307e12, PeakFP8FLOPs: 2615e12, MemoryBandwidthBytesS: 5.3e12, LinkBytesS: 64e9,
		MemoryBytes: 192e9, StreamingMultiprocessors: 304,
	}
	if _, err = bundle.WithCard(card); err == nil {
		fmt.Println("known as MI300X")
	}
	// Output: known as MI300X
}

// What is wrong is said in one line.
func ExampleParseConfig() {
	_, err := ParseConfig([]byte(`{"model_type": "mamba2"}`))
	fmt.Println(err)
	// Output: config.json: model_type="mamba2": its steps are not counted; expected a decoder of attention and FFN layers
}
