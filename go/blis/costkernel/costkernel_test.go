package costkernel

import (
	"math"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/inference-sim/h3/go/h3bundle"
	"github.com/inference-sim/h3/go/h3bundle/champion"
)

const (
	llama7B  = `{"num_hidden_layers":32,"hidden_size":4096,"num_attention_heads":32,"intermediate_size":11008,"vocab_size":32000}`
	llama70B = `{"num_hidden_layers":80,"hidden_size":8192,"num_attention_heads":64,"num_key_value_heads":8,"intermediate_size":28672,"vocab_size":32000}`
	mixtral  = `{"num_hidden_layers":32,"hidden_size":4096,"num_attention_heads":32,"num_key_value_heads":8,"intermediate_size":14336,
		"vocab_size":32000,"num_local_experts":8,"num_experts_per_tok":2}`
	windowed = `{"num_hidden_layers":12,"hidden_size":2048,"num_attention_heads":16,"num_key_value_heads":4,"intermediate_size":8192,
		"vocab_size":32000,"sliding_window":1000,"sliding_window_pattern":6}`
)

type deployed struct {
	name, config string
	tp           int
	hardware     string
}

var deployments = []deployed{
	{"known", llama70B, 4, "H100"}, {"one GPU", llama7B, 1, "H100"}, {"experts", mixtral, 2, "H100"},
	{"windows", windowed, 1, "A100"}, {"over PCIe", llama7B, 4, "L40S"}, {"new model", windowed, 2, "H200"},
}

func openChampion(t testing.TB) *h3bundle.Bundle {
	t.Helper()
	bundle, err := h3bundle.Load(champion.Files, ".")
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

// on gives the kernel of a deployment whose requests sample with top-p, and what it wraps.
func (d deployed) on(t testing.TB, options Options) (*Kernel, *h3bundle.Kernel) {
	t.Helper()
	arch, err := h3bundle.ParseConfig([]byte(d.config))
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := openChampion(t).Kernel(h3bundle.Deployment{
		Architecture: arch, TensorParallelism: d.tp, Hardware: d.hardware, TruncatedSampling: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return New(kernel, options), kernel
}

func tokens(batch Batch) (all []h3bundle.Tokens) {
	for _, r := range batch.Reqs {
		all = append(all, h3bundle.Tokens{
			Computed: int64(r.Computed), Scheduled: int64(r.Scheduled), Prompt: int64(r.PromptLen), Cached: int64(r.CachedTokens),
		})
	}
	return all
}

func randomBatch(random *rand.Rand) (batch Batch) {
	for range 1 + random.Intn(128) {
		prompt := 1 + random.Intn(4000)
		r := ReqShape{Scheduled: 1, Computed: prompt + random.Intn(2000), PromptLen: prompt}
		if random.Intn(8) == 0 {
			r = ReqShape{Scheduled: 1 + random.Intn(2048), PromptLen: prompt, CachedTokens: random.Intn(prompt)}
		}
		batch.Reqs = append(batch.Reqs, r)
	}
	return batch
}

func checkParts(t *testing.T, name string, e StepEstimate) {
	t.Helper()
	sum, largest := time.Duration(0), time.Duration(0)
	for resource, part := range e.PerResource {
		if part < 0 {
			t.Errorf("%s: %v of %s", name, part, resource)
		}
		sum, largest = sum+part, max(largest, part)
	}
	if sum != e.Expected || e.Overlap != e.Expected || e.NoOverlap != e.Expected {
		t.Errorf("%s: parts add up to %v in %+v", name, sum, e)
	}
	if e.PerResource[e.Bottleneck] != largest {
		t.Errorf("%s: %s is not the largest of %v", name, e.Bottleneck, e.PerResource)
	}
}

func TestPartsAddUpToThePeriod(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	for _, d := range deployments {
		kernel, h3 := d.on(t, Options{})
		for range 300 {
			batch := randomBatch(random)
			estimate := kernel.StepTime(batch)
			checkParts(t, d.name, estimate)
			period := h3.StepUS(tokens(batch))
			if math.Abs(float64(estimate.Expected)-1e3*period) > 0.5 {
				t.Fatalf("%s: %v; expected the period, %v us", d.name, estimate.Expected, period)
			}
		}
	}
}

func TestPartsAreTheBasesInProportion(t *testing.T) {
	for _, d := range deployments {
		kernel, h3 := d.on(t, Options{})
		batch := randomBatch(rand.New(rand.NewSource(3)))
		c := h3.Composition()
		for _, r := range batch.Reqs {
			c.Add(int64(max(r.Computed, r.CachedTokens)), int64(r.Scheduled), int64(r.PromptLen))
		}
		p := h3.Evaluate(&c)
		link := Resource("nvlink")
		if d.hardware == "L40S" {
			link = "pcie"
		}
		expected := map[Resource]float64{}
		for i, name := range h3bundle.TermNames {
			resource := map[string]Resource{
				"weights_us": "hbm", "kv_us": "hbm", "all_reduce_us": link, "two_shots": link,
				"layers": "host", "moe_layers": "host", "requests": "host", "step": "host",
				"compute_excess_us": "sm", "prefill_attention_us": "sm", "attention_waves": "sm", "sampler_us": "sm",
			}[name]
			if resource == "" {
				t.Fatalf("term %s: no resource is expected", name)
			}
			expected[resource] += p.Parts[i] / p.BaseUS * p.US * 1e3
		}
		for resource, part := range kernel.StepTime(batch).PerResource {
			if math.Abs(float64(part)-expected[resource]) > 5 {
				t.Errorf("%s: %v of %s; expected %.0f ns", d.name, part, resource, expected[resource])
			}
		}
		if parts := kernel.StepTime(batch).PerResource; (d.tp > 1) != (parts[link] > 0) {
			t.Errorf("%s: %v over the link with %d GPUs", d.name, parts[link], d.tp)
		}
	}
}

func TestAnyBatchHasATime(t *testing.T) {
	for _, d := range deployments {
		kernel, _ := d.on(t, Options{})
		for _, reqs := range [][]ReqShape{
			nil, {{}}, {{-5, -6, -7, -8}}, {{math.MaxInt, math.MaxInt, math.MaxInt, 0}}, {{math.MaxInt, 0, math.MaxInt, 0}},
			{{math.MaxInt, math.MaxInt - 1, math.MaxInt, 0}}, {{math.MinInt, math.MinInt, math.MinInt, math.MinInt}},
		} {
			estimate := kernel.StepTime(Batch{Reqs: reqs})
			checkParts(t, d.name, estimate)
			if estimate.Expected < time.Microsecond {
				t.Errorf("%s: %v for %v", d.name, estimate.Expected, reqs)
			}
		}
	}
}

func TestAPredictionThatIsNoTimeIsAMicrosecondOfTheHost(t *testing.T) {
	kernel, _ := deployments[0].on(t, Options{})
	for _, us := range []float64{0, -1, math.NaN()} {
		step := kernel.split(h3bundle.Prediction{US: us})
		if step.Expected != time.Microsecond || step.Parts[host] != time.Microsecond || step.Bottleneck != "host" {
			t.Errorf("%v us: %+v", us, step)
		}
	}
}

// Trees may bend a step's time either way and an all-reduce changes its algorithm with size: the base's bytes and FLOPs on one
// GPU, on a deployment that the trees were never tested on, may not fall.
func TestMoreTokensNeverTakeLessMemoryTimeOrCompute(t *testing.T) {
	kernel, h3 := deployed{"new", windowed, 1, "A100"}.on(t, Options{})
	if h3.Origin().TreesTrusted {
		t.Fatal("expected a deployment without trees")
	}
	last := StepEstimate{}
	grows := func(estimate StepEstimate) {
		t.Helper()
		for _, resource := range []Resource{"hbm", "sm"} {
			if estimate.PerResource[resource] < last.PerResource[resource]-1 {
				t.Errorf("%s fell from %v to %v", resource, last.PerResource[resource], estimate.PerResource[resource])
			}
		}
		if estimate.Expected < last.Expected {
			t.Errorf("fell from %v to %v", last.Expected, estimate.Expected)
		}
		last = estimate
	}
	for context := 100; context < 5000; context += 100 {
		grows(kernel.StepTime(Batch{Reqs: []ReqShape{{1, context, 100, 0}, {1, 300, 100, 0}}}))
	}
	last = StepEstimate{}
	for prompt := 1; prompt < 5000; prompt += 100 {
		grows(kernel.StepTime(Batch{Reqs: []ReqShape{{prompt, 0, 5000, 0}, {1, 300, 100, 0}}}))
	}
	last = StepEstimate{}
	for requests := range 128 {
		grows(kernel.StepTime(Batch{Reqs: decoding(requests)}))
	}
}

func decoding(requests int) []ReqShape {
	reqs := make([]ReqShape, requests)
	for i := range reqs {
		reqs[i] = ReqShape{1, 500, 100, 0}
	}
	return reqs
}

func TestCachedTokensCountAsComputedOnce(t *testing.T) {
	kernel, _ := deployments[0].on(t, Options{})
	without := kernel.StepTime(Batch{Reqs: []ReqShape{{512, 0, 6656, 6144}}})
	with := kernel.StepTime(Batch{Reqs: []ReqShape{{512, 6144, 6656, 6144}}})
	uncached := kernel.StepTime(Batch{Reqs: []ReqShape{{512, 0, 6656, 0}}})
	if without.Expected != with.Expected || without.Expected <= uncached.Expected {
		t.Errorf("%v, %v with them in Computed, %v without a cache", without.Expected, with.Expected, uncached.Expected)
	}
}

func TestSpeculatedTokensAreDecodeTokensOfOneRequest(t *testing.T) {
	kernel, h3 := deployments[0].on(t, Options{})
	c := h3.Composition()
	c.Add(700, 4, 512)
	if c.DecodeReqs != 1 || c.DecodeTokens != 4 || c.DecodeKVTokens != 704 || c.PrefillReqs != 0 {
		t.Errorf("%+v", c)
	}
	if found, expected := kernel.StepTime(Batch{Reqs: []ReqShape{{4, 700, 512, 0}}}).Expected, nanoseconds(h3.PeriodUS(&c)); found != expected {
		t.Errorf("%v; expected %v", found, expected)
	}
}

func TestOverheadsAreTheBundles(t *testing.T) {
	kernel, _ := deployments[0].on(t, Options{})
	overheads := openChampion(t).Overheads()
	if kernel.AdmissionOverhead(1) != nanoseconds(overheads.QueueingUS) || kernel.AdmissionOverhead(9999) != kernel.AdmissionOverhead(1) {
		t.Errorf("%v before a step", kernel.AdmissionOverhead(1))
	}
	if kernel.CompletionOverhead() != nanoseconds(overheads.PostDecodeUS) || kernel.OutputTokenOverhead() != nanoseconds(overheads.OutputTokenUS) {
		t.Errorf("%v after the last token, %v at each", kernel.CompletionOverhead(), kernel.OutputTokenOverhead())
	}
}

func TestMemoryOfARankIsThatOfHandCounts(t *testing.T) {
	for _, c := range []struct {
		deployed
		options     Options
		weights, kv int64 // a rank's; kv of a request of 20 tokens
	}{
		{deployments[1], Options{}, 2 * (32*(4096*128*4*32+3*4096*11008) + 2*4096*32000), 32 * 524288},
		{deployments[1], Options{TiedEmbeddings: true, BlockTokens: 32}, 2 * (32*(4096*128*4*32+3*4096*11008) + 4096*32000), 32 * 524288},
		{deployments[1], Options{BlockTokens: 1}, 2 * (32*(4096*128*4*32+3*4096*11008) + 2*4096*32000), 20 * 524288},
		{deployments[0], Options{}, 2 * (80*(8192*128*(2*16+2*2)+3*8192*28672/4) + 2*8192*32000/4), 32 * 81920},
		{deployments[2], Options{}, 2 * (32*(4096*128*(2*16+2*4)+8*3*4096*14336/2) + 2*4096*32000/2), 32 * 65536},
	} {
		kernel, _ := c.on(t, c.options)
		fixed, bytes := kernel.FixedBytes(), kernel.SequenceVariableBytes(20)
		if fixed != (MemoryBreakdown{Weights: c.weights}) || fixed.Total() != c.weights || bytes != c.kv || kernel.SequenceFixedBytes() != 0 {
			t.Errorf("%s %+v: %+v, %d bytes of KV; expected %d and %d", c.name, c.options, fixed, bytes, c.weights, c.kv)
		}
	}
}

func TestProvenanceNamesEveryTermAndWhatItRestsOn(t *testing.T) {
	kernel, _ := deployments[0].on(t, Options{})
	rows := map[string]CoefficientOrigin{}
	for _, row := range kernel.Provenance() {
		rows[row.Name] = row
		if row.Method == "" || row.Scope == "" || !strings.Contains(row.Set, openChampion(t).Digest()) {
			t.Errorf("%+v", row)
		}
	}
	for _, name := range append(h3bundle.TermNames[:], "kernels", "trees", "queueing_us", "output_token_us", "post_decode_us") {
		if _, ok := rows[name]; !ok {
			t.Errorf("no row of %s", name)
		}
	}
	if scope := rows["weights_us"].Scope; !strings.Contains(scope, "H100") || !strings.Contains(scope, openChampion(t).Data()) {
		t.Errorf("weights: %s", scope)
	}
	elsewhere, _ := deployed{"new", windowed, 1, "B200"}.on(t, Options{})
	for _, row := range elsewhere.Provenance() {
		if row.Name == "kernels" && (row.Scope != "B200" || !strings.Contains(row.Method, "not measured on")) {
			t.Errorf("%+v", row)
		}
		if row.Name == "trees" && !strings.Contains(row.Scope, "not used") {
			t.Errorf("%+v", row)
		}
	}
}

func TestConcurrentCallsAgree(t *testing.T) {
	kernel, _ := deployments[2].on(t, Options{})
	batch := randomBatch(rand.New(rand.NewSource(5)))
	expected, done := Price(kernel, batch.Reqs), make(chan Step, 64)
	for range cap(done) {
		go func() {
			kernel.Provenance()
			kernel.SequenceVariableBytes(100)
			done <- Price(kernel, batch.Reqs)
		}()
	}
	for range cap(done) {
		if step := <-done; step != expected {
			t.Errorf("%+v; expected %+v", step, expected)
		}
	}
}

func TestAPricedStepDoesNotAllocate(t *testing.T) {
	kernel, _ := deployments[2].on(t, Options{})
	batch := randomBatch(rand.New(rand.NewSource(5)))
	if allocations := testing.AllocsPerRun(100, func() { Price(kernel, batch.Reqs) }); allocations != 0 {
		t.Errorf("%v allocations; expected none", allocations)
	}
}

func BenchmarkPrice(b *testing.B) {
	kernel, _ := deployments[0].on(b, Options{})
	batch := Batch{Reqs: decoding(128)}
	b.Run("step", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			Price(kernel, batch.Reqs)
		}
	})
	b.Run("estimate", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			kernel.StepTime(batch)
		}
	})
}
