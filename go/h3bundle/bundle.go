// Package h3bundle predicts the period of one step of an LLM inference server from a bundle that h3 exported.
//
//	bundle, err := h3bundle.Open("dist/blis")
//	arch, err := h3bundle.ParseConfig(configJSON)
//	kernel, err := bundle.Kernel(h3bundle.Deployment{Architecture: arch, TensorParallelism: 2, Hardware: "H100"})
//	us := kernel.StepUS([]h3bundle.Tokens{{Computed: 600, Scheduled: 1, Prompt: 512}})
//
// period = sum of coefficients x physical terms, times exp(trust(x) x sum of leaves(x)); docs/blis.md has the format.
// A Bundle and a Kernel are read-only once built: any number of goroutines may use them.
package h3bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Bundle is a loaded bundle.
type Bundle struct {
	manifest *manifest
	boosters map[string]*booster // by model name
	digest   string
}

// Open loads a bundle from a folder.
func Open(dir string) (*Bundle, error) { return Load(os.DirFS(dir), ".") }

// Load reads a bundle from a folder of any file system, an embed.FS included, and checks sizes, digests, versions, trees, and
// a sample of the golden vectors where golden.json is there.
func Load(fsys fs.FS, dir string) (*Bundle, error) {
	m, sum, err := loadManifest(fsys, dir)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	files := map[string][]byte{}
	for _, name := range m.fileNames() {
		data, err := readFile(fsys, path.Join(dir, name))
		if name == "golden.json" && errors.Is(err, fs.ErrNotExist) {
			continue // nothing is computed from it
		}
		if err != nil {
			return nil, fmt.Errorf("bundle: %w", err)
		}
		entry := m.file(name)
		if sum := digest(data); sum != entry.SHA256 || int64(len(data)) != entry.Bytes {
			return nil, fmt.Errorf("bundle: %s: %d bytes of sha256 %s; the manifest says %d of %s", name, len(data), sum, entry.Bytes, entry.SHA256)
		}
		files[name] = data
	}
	b, err := assemble(m, files, sum)
	if err != nil {
		return nil, err
	}
	if data, ok := files["golden.json"]; ok {
		if err := b.checkGolden(data); err != nil {
			return nil, fmt.Errorf("bundle: golden.json: %w", err)
		}
	}
	return b, nil
}

// loadManifest reads the manifest that manifest.sha256 names: one line as sha256sum writes it.
func loadManifest(fsys fs.FS, dir string) (*manifest, string, error) {
	data, err := readFile(fsys, path.Join(dir, "manifest.json"))
	if err != nil {
		return nil, "", err
	}
	said, err := readFile(fsys, path.Join(dir, "manifest.sha256"))
	if err != nil {
		return nil, "", err
	}
	sum := digest(data)
	if strings.TrimSuffix(string(said), "\n") != sum+"  manifest.json" {
		return nil, "", fmt.Errorf("manifest.json: sha256 %s; manifest.sha256 says %.80q", sum, said)
	}
	m, err := parseManifest(data)
	if err != nil {
		return nil, "", fmt.Errorf("manifest.json: %w", err)
	}
	return m, sum, nil
}

func assemble(m *manifest, files map[string][]byte, sum string) (*Bundle, error) {
	b := &Bundle{manifest: m, boosters: map[string]*booster{}, digest: sum}
	for name, model := range m.Models {
		data, ok := files[model.Booster]
		if !ok {
			return nil, fmt.Errorf("bundle: model %q needs %s, which is not among the files", name, model.Booster)
		}
		parsed, err := parseBooster(data, m.featureNames())
		if err != nil {
			return nil, fmt.Errorf("bundle: %s: %w", model.Booster, err)
		}
		if len(parsed.trees) != model.Trees {
			return nil, fmt.Errorf("bundle: %s: %d trees; the manifest says %d", model.Booster, len(parsed.trees), model.Trees)
		}
		b.boosters[name] = parsed
	}
	return b, nil
}

// Data says what the bundle was learned from, as its manifest has it; "" where it does not say.
func (b *Bundle) Data() string { return b.manifest.Provenance.Data.textual() }

// Digest is the sha256 of the manifest, which names the digests of all other files.
func (b *Bundle) Digest() string { return b.digest }

// Overheads are the constants of a request, us.
func (b *Bundle) Overheads() Overheads { return b.manifest.Overheads }

// FeatureNames are the features in order.
func (b *Bundle) FeatureNames() []string { return b.manifest.featureNames() }

// Deployment is a model on so many accelerators. TruncatedSampling: requests sample with top-p or top-k, so that every step
// sorts its logits; TruncatesSampling reads it from a generation_config.json. ExpertParallel: experts lie whole on the ranks
// of the tensor-parallel group (vLLM's --enable-expert-parallel without data parallelism); dense models have none.
type Deployment struct {
	Architecture      Architecture
	TensorParallelism int
	Hardware          string
	TruncatedSampling bool
	ExpertParallel    bool
}

// Kernel prepares the evaluation for one deployment; everything that depends on it alone is computed here.
func (b *Bundle) Kernel(d Deployment) (*Kernel, error) {
	name, ok := b.manifest.hardwareName(d.Hardware)
	if !ok {
		return nil, fmt.Errorf("unknown hardware %q", d.Hardware)
	}
	if err := d.Architecture.check(d.TensorParallelism); err != nil {
		return nil, err
	}
	route := b.manifest.Routing.Dense
	if d.Architecture.MoE() {
		route = b.manifest.Routing.MoE
	}
	model := b.manifest.Models[route]
	k := &Kernel{booster: b.boosters[route], overheads: b.manifest.Overheads, origin: origin{b, d, route, name}}
	k.physics = newPhysics(d, b.manifest.Hardware[name], &b.manifest.Constants)
	k.trusted = 1
	if !model.serves(known(d.Architecture, d.TensorParallelism, name)) {
		k.trusted = 0
	}
	copy(k.coefficients[:], model.Coefficients)
	for i, feature := range b.manifest.Features {
		k.features = append(k.features, selected{featureIndex[feature.Name], newRange(float32(model.Support.Low[i]), float32(model.Support.High[i]))})
	}
	return k, nil
}

// check refuses an architecture that ParseConfig would not give, and a degree that does not divide the heads.
func (a Architecture) check(tensorParallelism int) error {
	for _, field := range []struct {
		name       string
		value, low int64
	}{
		{"layers", a.NumLayers, 1}, {"hidden size", a.HiddenSize, 1}, {"heads", a.NumHeads, 1}, {"KV heads", a.NumKVHeads, 1},
		{"head_dim", a.HeadDim, 1}, {"vocabulary", a.VocabSize, 1}, {"FFN size", a.DenseFFNSize, 0}, {"MoE layers", a.NumMoELayers, 0},
		{"experts", a.NumExperts, 0}, {"experts a token", a.ExpertsPerToken, 0}, {"expert FFN size", a.ExpertFFNSize, 0},
	} {
		if field.value < field.low || field.value > maxTokens {
			return fmt.Errorf("architecture: %s %d; expected %d to %d", field.name, field.value, field.low, maxTokens)
		}
	}
	if !(a.BytesPerParameter > 0 && a.BytesPerParameter <= 16) || a.SharedFFNSize < 0 || a.ExpertsPerToken > a.NumExperts {
		return fmt.Errorf("architecture: %g bytes a parameter, %d of %d experts", a.BytesPerParameter, a.ExpertsPerToken, a.NumExperts)
	}
	if tensorParallelism < 1 || a.NumHeads%int64(tensorParallelism) != 0 {
		return fmt.Errorf("tensor parallelism %d does not divide %d heads", tensorParallelism, a.NumHeads)
	}
	return nil
}
