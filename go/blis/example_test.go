package blis_test

import (
	"fmt"

	"github.com/inference-sim/h3/go/blis"
	"github.com/inference-sim/h3/go/h3bundle"
)

// A request as an engine has it.
type request struct {
	progressIndex, inputLen int64
	numNewTokens            int
}

func count(step *h3bundle.Composition, batch []*request) {
	for _, r := range batch {
		if !step.AddDecode(r.progressIndex, int64(r.numNewTokens), r.inputLen) {
			step.Add(r.progressIndex, int64(r.numNewTokens), r.inputLen)
		}
	}
}

var config = blis.Config{
	Model: blis.Model{NumLayers: 32, HiddenDim: 4096, NumHeads: 32, NumKVHeads: 8, VocabSize: 128256, IntermediateDim: 14336, BytesPerParam: 2},
	GPU:   blis.GPU{Name: "H100", TFlopsPeak: 989.5, TFlopsFP8: 1979, BwPeakTBs: 3.35, MemoryGiB: 80},
	TP:    1, DP: 1,
}

// The four methods that BLIS asks for, from the champion that ships with h3.
func Example() {
	kernel, err := blis.Prepare(config)
	if err != nil {
		panic(err)
	}
	model := blis.New(kernel, blis.Hooks[*request]{Count: count})
	us := model.StepTime([]*request{{progressIndex: 900, inputLen: 512, numNewTokens: 1}})
	fmt.Println(us > 4000, us < 12000, model.OutputTokenProcessingTime(), model.PostDecodeFixedOverhead())
	// Output: true true 0 0
}

// What cannot be served is an error with its reason, once, before anything runs.
func ExamplePrepare() {
	replicated := config
	replicated.DP = 2
	_, err := blis.Prepare(replicated)
	fmt.Println(err)
	latent := config
	latent.Model.KVLoraRank = 512
	_, err = blis.Prepare(latent)
	fmt.Println(err)
	// Output:
	// h3: data parallelism 2: ranks that exchange tokens (all-to-all) were never measured; expected DP 1, an instance a replica
	// h3: model: KVLoraRank=512: latent attention has sizes that these values lack; expected its config.json beside them
}
