package h3bundle

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// published are models counted by hand; Python's tests read the same file.
type published struct {
	Name       string          `json:"name"`
	Config     json.RawMessage `json:"config"`
	Weights    float64         `json:"weight_bytes"`
	KV         float64         `json:"kv_bytes_per_token"`
	Window     int64           `json:"window_tokens"`
	WindowedBy int64           `json:"num_window_layers"`
	Says       string          `json:"says"`
	Served     struct {
		DType        string `json:"dtype"`
		KVCacheDType string `json:"kv_cache_dtype"`
	} `json:"served"`
}

func readPublished(t *testing.T) (cases struct{ Cases, Served, Refused []published }) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "architectures.json"))
	if err != nil {
		t.Fatalf("the file of architectures must be there: %v", err)
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

func TestPublishedModelsAreCountedAsByHand(t *testing.T) {
	manifest, cases := openGolden(t).manifest, readPublished(t)
	if len(cases.Cases) < 30 {
		t.Fatalf("%d cases; expected at least 30", len(cases.Cases))
	}
	for _, c := range append(cases.Cases, cases.Served...) {
		arch, err := ParseConfigServed(c.Config, Served{c.Served.DType, c.Served.KVCacheDType})
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		p := newPhysics(Deployment{Architecture: arch, TensorParallelism: 1, Hardware: "H100"}, manifest.Hardware["H100"], &manifest.Constants)
		if weights := p.weightUS(1) * p.bandwidth; math.Abs(weights/c.Weights-1) > 1e-12 {
			t.Errorf("%s: %v bytes of weights; expected %v", c.Name, weights, c.Weights)
		}
		if p.kvBytesPerToken != c.KV {
			t.Errorf("%s: %v bytes a KV token; expected %v", c.Name, p.kvBytesPerToken, c.KV)
		}
		if arch.WindowTokens != c.Window || arch.NumWindowLayers != c.WindowedBy {
			t.Errorf("%s: a window of %d in %d layers; expected %d in %d", c.Name, arch.WindowTokens, arch.NumWindowLayers, c.Window, c.WindowedBy)
		}
	}
}

func TestWhatCannotBeCountedIsRefusedByItsKey(t *testing.T) {
	for _, c := range readPublished(t).Refused {
		if _, err := ParseConfigServed(c.Config, Served{c.Served.DType, c.Served.KVCacheDType}); err == nil || !strings.Contains(err.Error(), c.Says) {
			t.Errorf("%s: %v; expected an error that names %s", c.Name, err, c.Says)
		}
	}
}
