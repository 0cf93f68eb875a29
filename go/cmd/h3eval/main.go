// Command h3eval prints the predicted period of a step, in us, and the parts it is made of.
//
//	go run ./cmd/h3eval -bundle DIR -config config.json -tp 2 -hardware H100 -batch batch.json
//	go run ./cmd/h3eval -bundle DIR -cases cases.jsonl          # a JSON case a line in, a JSON prediction a line out
//
// batch.json: [[progress_index, new_tokens, prompt_tokens], ...] or {"requests": [{"progress_index": ...}, ...]}.
// A case: {"config": {HuggingFace config}, "tensor_parallelism": 2, "hardware": "H100", "requests": [[...], ...]}.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/inference-sim/h3/go/h3bundle"
)

// The champion that ships with h3, seen from go/.
const shipped = "../src/h3/data/champion"

func main() {
	bundle := flag.String("bundle", shipped, "folder of the bundle; by default, run in go/, the one that ships with h3")
	config := flag.String("config", "", "HuggingFace config.json")
	tp := flag.Int("tp", 1, "tensor-parallel degree")
	hardware := flag.String("hardware", "H100", "accelerator in the bundle's table")
	card := flag.String("card", "", "JSON file of an accelerator of one's own (h3bundle.Card), to be named by -hardware")
	batch := flag.String("batch", "", "batch file, - for standard input")
	dtype := flag.String("dtype", "auto", "of weights that the config does not quantise: float16, bfloat16, float32, fp8, or auto")
	kvCache := flag.String("kv-cache-dtype", "auto", "auto: as the config says, else 16 bits; fp8")
	sampling := flag.String("sampling", "auto", "truncated (by top-p or top-k), plain, or auto: by the generation_config.json beside the config")
	cases := flag.String("cases", "", "file of JSON cases, one a line, - for standard input")
	level := flag.Float64("level", h3bundle.DefaultLevel, "share of steps that the interval holds, one of the bundle's")
	flag.Parse()
	options := options{
		card: *card, config: *config, batch: *batch, cases: *cases, sampling: *sampling, level: *level,
		served: h3bundle.Served{DType: *dtype, KVCacheDType: *kvCache}, tp: *tp, hardware: *hardware,
	}
	if err := run(*bundle, options); err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(2)
	}
}

// options are what is asked of a bundle: one step of a deployment, or a file of cases.
type options struct {
	card, config, batch, cases, sampling, hardware string
	tp                                             int
	level                                          float64
	served                                         h3bundle.Served
}

func run(dir string, o options) error {
	if dir == "" || (o.cases == "" && (o.config == "" || o.batch == "")) {
		return fmt.Errorf("expected -bundle DIR and either -cases FILE or -config FILE with -batch FILE")
	}
	bundle, err := h3bundle.Open(dir)
	if err != nil {
		return err
	}
	if o.card != "" {
		if bundle, err = withCard(bundle, o.card); err != nil {
			return fmt.Errorf("%s: %w", o.card, err)
		}
	}
	if o.cases != "" {
		file, err := open(o.cases)
		if err != nil {
			return err
		}
		defer file.Close()
		return evaluateCases(bundle, file, os.Stdout, o.level)
	}
	truncated, err := truncates(o.sampling, o.config)
	if err != nil {
		return err
	}
	return printOne(bundle, o, truncated)
}

// truncates says whether sampling is truncated: as told, or by the generation_config.json beside the config (none: it is not).
func truncates(sampling, config string) (bool, error) {
	if sampling != "auto" {
		if sampling != "truncated" && sampling != "plain" {
			return false, fmt.Errorf("-sampling %q; expected auto, truncated or plain", sampling)
		}
		return sampling == "truncated", nil
	}
	name := filepath.Join(filepath.Dir(config), "generation_config.json")
	data, err := readAll(name)
	if errors.Is(err, fs.ErrNotExist) || config == "-" {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	truncated, err := h3bundle.TruncatesSampling(data)
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return truncated, err
}

func withCard(bundle *h3bundle.Bundle, name string) (*h3bundle.Bundle, error) {
	data, err := readAll(name)
	if err != nil {
		return nil, err
	}
	card, err := h3bundle.ParseCard(data)
	if err != nil {
		return nil, err
	}
	return bundle.WithCard(card)
}

func open(name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(os.Stdin), nil
	}
	return os.Open(name)
}

func readAll(name string) ([]byte, error) {
	file, err := open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, h3bundle.MaxFileBytes+1))
}

func printOne(bundle *h3bundle.Bundle, o options, truncated bool) error {
	data, err := readAll(o.config)
	if err != nil {
		return err
	}
	arch, err := h3bundle.ParseConfigServed(data, o.served)
	if err != nil {
		return fmt.Errorf("%s: %w", o.config, err)
	}
	deployment := h3bundle.Deployment{Architecture: arch, TensorParallelism: o.tp, Hardware: o.hardware, TruncatedSampling: truncated}
	kernel, err := bundle.Kernel(deployment)
	if err != nil {
		return err
	}
	if data, err = readAll(o.batch); err != nil {
		return err
	}
	requests, err := h3bundle.ParseBatch(data)
	if err != nil {
		return fmt.Errorf("%s: %w", o.batch, err)
	}
	composition := kernel.Compose(requests)
	if data := bundle.Data(); data != "" {
		fmt.Printf("%-28s %s\n", "learned from data", data)
	}
	intervals, err := bundle.Intervals(deployment, o.level)
	if err != nil {
		return err
	}
	p, period := kernel.Evaluate(&composition), kernel.PeriodUS(&composition)
	fmt.Printf("%-28s %14.2f us\n", "period", period)
	if in := intervals.Of(&composition, period); in.Known {
		fmt.Printf("%-28s %14.2f us\n%-28s %14.2f us  %s\n", fmt.Sprintf("%g %% interval from", 100*o.level), in.LowUS, "to", in.HighUS, in.Kind)
	} else {
		fmt.Println(in.Kind)
	}
	fmt.Printf("%-28s %14.2f us\n", "base", p.BaseUS)
	for i, part := range p.Parts {
		fmt.Printf("  %-26s %14.2f us\n", h3bundle.TermNames[i], part)
	}
	fmt.Printf("%-28s %14.6f\n%-28s %14.6f\n", "margin of the trees (log)", p.Margin, "trust", p.Trust)
	for i, name := range bundle.FeatureNames() {
		fmt.Printf("  %-26s %14.6g\n", name, p.Features[i])
	}
	fmt.Printf("%-28s %t\n", "sampling by top-p or top-k", truncated)
	return nil
}

type answer struct {
	US       float64   `json:"us"`
	LowUS    *float64  `json:"low_us"`
	HighUS   *float64  `json:"high_us"`
	Kind     string    `json:"kind"`
	BaseUS   float64   `json:"base_us"`
	Trust    float64   `json:"trust"`
	Margin   float32   `json:"margin"`
	Features []float32 `json:"features"`
}

// evaluateCases answers each case on a line; a case that cannot be used gets a line {"error": ...}.
func evaluateCases(bundle *h3bundle.Bundle, in io.Reader, out io.Writer, level float64) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 1<<20), h3bundle.MaxFileBytes)
	buffered := bufio.NewWriter(out)
	defer buffered.Flush()
	encoder := json.NewEncoder(buffered)
	for lines.Scan() {
		var said any
		found, err := evaluateCase(bundle, lines.Bytes(), level)
		if err != nil {
			said = map[string]string{"error": err.Error()}
		} else {
			said = found
		}
		if err := encoder.Encode(said); err != nil {
			return err
		}
	}
	return lines.Err()
}

func evaluateCase(bundle *h3bundle.Bundle, line []byte, level float64) (answer, error) {
	var c h3bundle.Case
	if err := json.Unmarshal(line, &c); err != nil {
		return answer{}, err
	}
	kernel, err := bundle.KernelOf(c)
	if err != nil {
		return answer{}, err
	}
	intervals, err := bundle.IntervalsOf(c, level)
	if err != nil {
		return answer{}, err
	}
	composition := kernel.Compose(c.Requests)
	p := kernel.Evaluate(&composition)
	in := intervals.Of(&composition, p.US)
	said := answer{US: p.US, Kind: in.Kind, BaseUS: p.BaseUS, Trust: p.Trust, Margin: p.Margin, Features: p.Features[:p.NumFeatures]}
	if in.Known {
		said.LowUS, said.HighUS = &in.LowUS, &in.HighUS
	}
	return said, nil
}
