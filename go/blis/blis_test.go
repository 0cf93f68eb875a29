package blis

import (
	"math"
	"strings"
	"testing"

	"github.com/inference-sim/h3/go/h3bundle"
)

// request has what BLIS's requests have.
type request struct {
	progress, input, cached int64
	newTokens               int
}

var hooks = Hooks[*request]{Count: func(step *h3bundle.Composition, batch []*request) {
	for _, r := range batch {
		computed := max(r.progress, r.cached)
		if !step.AddDecode(computed, int64(r.newTokens), r.input) {
			step.Add(computed, int64(r.newTokens), r.input)
		}
	}
}}

func decoding(count int) []*request {
	batch := make([]*request, count)
	for i := range batch {
		batch[i] = &request{progress: 600 + int64(7*i), newTokens: 1, input: 512}
	}
	return batch
}

// The values that BLIS reads from the published configs, and figures of its hardware table.
var (
	llama7B = Model{NumLayers: 32, HiddenDim: 4096, NumHeads: 32, NumKVHeads: 32, VocabSize: 32000, IntermediateDim: 11008, BytesPerParam: 2, HiddenAct: "silu"}
	mixtral = Model{
		NumLayers: 32, HiddenDim: 4096, NumHeads: 32, NumKVHeads: 8, VocabSize: 32000, IntermediateDim: 14336, NumLocalExperts: 8,
		NumExpertsPerTok: 2, BytesPerParam: 2, HiddenAct: "silu",
	}
	h100 = GPU{Name: "H100", TFlopsPeak: 989.5, TFlopsFP8: 1979, BwPeakTBs: 3.35, MemoryGiB: 80}
)

const llama7BConfig = `{"model_type":"llama","num_hidden_layers":32,"hidden_size":4096,"num_attention_heads":32,"num_key_value_heads":32,
	"vocab_size":32000,"intermediate_size":11008,"torch_dtype":"float16"}`

func stepUS(t *testing.T, c Config, batch []*request) int64 {
	t.Helper()
	kernel, err := Prepare(c)
	if err != nil {
		t.Fatal(err)
	}
	return New(kernel, hooks).StepTime(batch)
}

func TestBLISsValuesGiveTheTimeOfTheConfig(t *testing.T) {
	batch := decoding(32)
	values := stepUS(t, Config{Model: llama7B, GPU: h100, TP: 1}, batch)
	config := stepUS(t, Config{ConfigJSON: []byte(llama7BConfig), GPU: h100, TP: 1}, batch)
	if values != config || values < 5000 || values > 15000 {
		t.Errorf("%d us of BLIS's values, %d of the config", values, config)
	}
}

func TestWhatWasNeverMeasuredIsRefusedWithTheReason(t *testing.T) {
	change := func(c *Config) { c.TP = 1 }
	for expected, edit := range map[string]func(*Config){
		"data parallelism 2":  func(c *Config) { c.DP = 2 },
		"TP=0":                func(c *Config) { c.TP = 0 },
		"does not divide":     func(c *Config) { c.TP = 3 },
		"config.json":         func(c *Config) { c.Model.KVLoraRank = 512 },
		"linear attention":    func(c *Config) { c.Model.KVBearingLayers = 8 },
		"NumLayers=0":         func(c *Config) { c.Model = Model{} },
		"no accelerator is":   func(c *Config) { c.GPU = GPU{Name: "abacus"} },
		"memory_bandwidth":    func(c *Config) { c.GPU.BwPeakTBs = -1 },
		"hidden_size":         func(c *Config) { c.ConfigJSON = []byte(`{"num_hidden_layers": 2}`) },
		"generation_config":   func(c *Config) { c.GenerationJSON = []byte(`[]`) },
		"of 2 experts":        func(c *Config) { c.Model.NumLocalExperts, c.Model.NumExpertsPerTok = 2, 3 },
		"bytes a parameter":   func(c *Config) { c.Model.WeightBytesPerParam = 99 },
		"h3: card: name \"\"": func(c *Config) { c.GPU.Name = "" },
		"peak_bf16_flops: 1;": func(c *Config) { c.GPU.Name, c.GPU.TFlopsPeak = "slow", 1e-12 },
	} {
		c := Config{Model: llama7B, GPU: h100, TP: 1, DP: 1}
		change(&c)
		edit(&c)
		if _, err := Prepare(c); err == nil || !strings.Contains(err.Error(), expected) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v; expected one line with %q", err, expected)
		}
	}
}

func TestTheCallersFiguresCount(t *testing.T) {
	batch := decoding(8)
	usual := stepUS(t, Config{Model: llama7B, GPU: h100, TP: 1}, batch)
	halved, alias := h100, GPU{Name: "A100-80", TFlopsPeak: 312, BwPeakTBs: 2.04, MemoryGiB: 80}
	halved.BwPeakTBs /= 2
	if slow := stepUS(t, Config{Model: llama7B, GPU: halved, TP: 1}, batch); float64(slow) < 1.6*float64(usual) {
		t.Errorf("%d us at half the bandwidth, %d before: a step of few requests reads weights", slow, usual)
	}
	named := stepUS(t, Config{Model: llama7B, GPU: GPU{Name: "A100-SXM"}, TP: 1}, batch)
	if aliased := stepUS(t, Config{Model: llama7B, GPU: alias, TP: 1}, batch); aliased != named || aliased < usual {
		t.Errorf("A100-80: %d us, A100-SXM by name alone: %d, H100 %d", aliased, named, usual)
	}
	own := GPU{Name: "MI300X", TFlopsPeak: 1307, TFlopsFP8: 2615, BwPeakTBs: 5.3, MemoryGiB: 192}
	if fast := stepUS(t, Config{Model: llama7B, GPU: own, TP: 1}, batch); fast >= usual {
		t.Errorf("MI300X: %d us, H100 %d, with 1.6 times its bandwidth", fast, usual)
	}
}

func TestAnFP8PeakWithSparsityCountsAsTwiceThe16BitOne(t *testing.T) {
	eight := llama7B
	eight.WeightBytesPerParam = 1
	batch := []*request{{newTokens: 2048, input: 2048}}
	stock := stepUS(t, Config{Model: eight, GPU: GPU{Name: "L40S", TFlopsPeak: 362, TFlopsFP8: 1466, BwPeakTBs: 0.864}, TP: 1}, batch)
	if dense := stepUS(t, Config{Model: eight, GPU: GPU{Name: "L40S"}, TP: 1}, batch); stock != dense {
		t.Errorf("%d us with the stock table's figure, %d with the data sheet's dense one", stock, dense)
	}
}

func TestAQuantisationThatOnlyBLISKnowsIsHonoured(t *testing.T) {
	batch, named := decoding(4), Model{WeightBytesPerParam: 0.5}
	plain := stepUS(t, Config{ConfigJSON: []byte(llama7BConfig), GPU: h100, TP: 1}, batch)
	if four := stepUS(t, Config{Model: named, ConfigJSON: []byte(llama7BConfig), GPU: h100, TP: 1}, batch); float64(four) > 0.75*float64(plain) {
		t.Errorf("%d us with 4-bit weights, %d with 16", four, plain)
	}
}

func TestCachedTokensCountAtTheFirstChunk(t *testing.T) {
	c := Config{Model: llama7B, GPU: h100, TP: 1}
	without := stepUS(t, c, []*request{{newTokens: 512, input: 6656}})
	with := stepUS(t, c, []*request{{newTokens: 512, input: 6656, cached: 6144}})
	later := stepUS(t, c, []*request{{progress: 6144, newTokens: 512, input: 6656}})
	if with != later || with <= without {
		t.Errorf("%d us with 6144 cached tokens; %d where they count as progress, %d without", with, later, without)
	}
}

func TestARequestWaitsForTheStepsThatAreScheduled(t *testing.T) {
	kernel, err := Prepare(Config{Model: llama7B, GPU: h100, TP: 1})
	if err != nil {
		t.Fatal(err)
	}
	model, o := New(kernel, hooks), kernel.Overheads()
	if first := model.QueueingTime(nil); first != round(o.QueueingUS) {
		t.Errorf("before any step: %d us; expected the constant %g", first, o.QueueingUS)
	}
	if o.PipelineSteps <= 0 {
		t.Error("the champion was learned from request logs, which say how many steps a request waits for")
	}
	period := model.StepTime(decoding(64))
	if wait := model.QueueingTime(nil); wait != round(o.QueueingUS+o.PipelineSteps*float64(period)) {
		t.Errorf("after a step of %d us: %d", period, wait)
	}
	if model.OutputTokenProcessingTime() != round(o.OutputTokenUS) || model.PostDecodeFixedOverhead() != round(o.PostDecodeUS) {
		t.Error("constants of a token and of a response are not the bundle's")
	}
}

func TestHooksAddWhatAdaptersCost(t *testing.T) {
	kernel, err := Prepare(Config{Model: mixtral, GPU: h100, TP: 2})
	if err != nil {
		t.Fatal(err)
	}
	slow := hooks
	slow.RequestUS = func(*request) int64 { return 500 }
	plain := New(kernel, hooks)
	for factor, expected := range map[float64]float64{1.25: 1.25, 0.5: 1, math.NaN(): 1, math.Inf(1): 1} {
		slow.StepFactor = func([]*request) float64 { return factor }
		model := New(kernel, slow)
		us, usual := model.StepTime(decoding(16)), plain.StepTime(decoding(16))
		if math.Abs(float64(us)/float64(usual)-expected) > 1e-3 {
			t.Errorf("factor %g: %d us of %d", factor, us, usual)
		}
		if wait := model.QueueingTime(nil) - plain.QueueingTime(nil); factor == 0.5 && wait != 500 {
			t.Errorf("a request waits %d us longer; expected 500", wait)
		}
	}
}

func TestExpertsOnTensorParallelRanksAreServed(t *testing.T) {
	c := Config{Model: mixtral, GPU: h100, TP: 4}
	sliced := stepUS(t, c, decoding(1))
	c.ExpertParallel = true
	if whole := stepUS(t, c, decoding(1)); whole <= sliced {
		t.Errorf("%d us with whole experts on ranks, %d with slices", whole, sliced)
	}
	dense := Config{Model: llama7B, GPU: h100, TP: 1, ExpertParallel: true}
	if stepUS(t, dense, decoding(1)) != stepUS(t, Config{Model: llama7B, GPU: h100, TP: 1}, decoding(1)) {
		t.Error("a dense model has no experts")
	}
}

func TestAnyBatchTakesAtLeastOneMicrosecondAndAllocatesNothing(t *testing.T) {
	kernel, err := Prepare(Config{Model: llama7B, GPU: h100, TP: 1})
	if err != nil {
		t.Fatal(err)
	}
	model := New(kernel, hooks)
	for _, batch := range [][]*request{nil, {}, {{}}, {{progress: -1, newTokens: -1, input: -1}}, {{progress: math.MaxInt64, newTokens: math.MaxInt, input: math.MaxInt64}}} {
		if us := model.StepTime(batch); us < 1 || us > h3bundle.MaxPeriodUS {
			t.Errorf("%d us", us)
		}
	}
	batch := decoding(128)
	if allocations := testing.AllocsPerRun(100, func() { model.StepTime(batch) }); allocations != 0 {
		t.Errorf("%v allocations a step; expected none", allocations)
	}
}

// A step as BLIS asks for it, by the champion: on a deployment that its trees know, and on one where the base answers alone.
func BenchmarkStepTime(b *testing.B) {
	for name, c := range map[string]Config{"known": {Model: mixtral, GPU: h100, TP: 2}, "new": {Model: mixtral, GPU: h100, TP: 8}} {
		kernel, err := Prepare(c)
		if err != nil {
			b.Fatal(err)
		}
		model, batch := New(kernel, hooks), decoding(128)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				model.StepTime(batch)
			}
		})
	}
}
