package h3bundle

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf16"
)

// corpus is what scripts/make_bundle_corpus.py wrote: edits of the golden bundle, whether each is accepted, and what it answers.
type corpus struct {
	Batches []Case            `json:"batches"`
	Aliases map[string]string `json:"aliases"`
	US      []float64         `json:"us"`
	Margins []float32         `json:"margins"`
	Cases   []corpusCase      `json:"cases"`
}

type corpusCase struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict"`
	Splices []struct {
		File   string `json:"file"`
		At     int    `json:"at"`
		Remove int    `json:"remove"`
		Insert string `json:"insert"`
		Base64 string `json:"base64"`
	} `json:"splices"`
	UTF16   []string  `json:"utf16"`
	Removed []string  `json:"removed"`
	Signed  *bool     `json:"signed"`
	US      []float64 `json:"us"`
	Margins []float32 `json:"margins"`
}

func readCorpus(t *testing.T) corpus {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "corpus.json"))
	if err != nil {
		t.Fatalf("the corpus must be there: %v", err)
	}
	var c corpus
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// files edits the golden bundle's files as the script's docstring says.
func (c *corpusCase) files(t *testing.T, golden map[string][]byte) map[string][]byte {
	t.Helper()
	files := maps.Clone(golden)
	for _, s := range c.Splices {
		insert := []byte(s.Insert)
		if s.Base64 != "" {
			var err error
			if insert, err = base64.StdEncoding.DecodeString(s.Base64); err != nil {
				t.Fatal(err)
			}
		}
		data := files[s.File]
		files[s.File] = append(append(bytes.Clone(data[:s.At]), insert...), data[s.At+s.Remove:]...)
	}
	for _, name := range c.UTF16 {
		wide := []byte{0xff, 0xfe}
		for _, unit := range utf16.Encode([]rune(string(files[name]))) {
			wide = append(wide, byte(unit), byte(unit>>8))
		}
		files[name] = wide
	}
	if c.Signed == nil || *c.Signed {
		sign(files, golden)
	}
	for _, name := range c.Removed {
		delete(files, name)
	}
	return files
}

// sign makes the digests right after an edit, where the manifest still has the golden bundle's.
func sign(files, golden map[string][]byte) {
	entry := func(data []byte) []byte {
		return fmt.Appendf(nil, "\"sha256\": \"%s\",\n   \"bytes\": %d", digest(data), len(data))
	}
	for _, name := range []string{"booster.json", "booster_moe.json", "golden.json"} {
		files["manifest.json"] = bytes.Replace(files["manifest.json"], entry(golden[name]), entry(files[name]), 1)
	}
	files["manifest.sha256"] = []byte(digest(files["manifest.json"]) + "  manifest.json\n")
}

func TestEveryBundleOfTheCorpusIsReadOrRefusedAsInPython(t *testing.T) {
	c, golden := readCorpus(t), goldenFiles(t)
	verdicts := map[string]int{}
	for _, each := range c.Cases {
		verdicts[each.Verdict]++
		t.Run(each.Name, func(t *testing.T) {
			bundle, err := load(each.files(t, golden))
			if each.Verdict == "refused" {
				if err == nil {
					t.Fatal("read; expected a refusal")
				}
				if bytes.ContainsAny([]byte(err.Error()), "\n\r") {
					t.Errorf("%q; expected one line", err)
				}
				return
			}
			if err != nil {
				t.Fatalf("%v; expected it to be read", err)
			}
			if each.US == nil {
				each.US, each.Margins = c.US, c.Margins
			}
			for i, batch := range c.Batches {
				kernel, err := bundle.KernelOf(batch)
				if err != nil {
					t.Fatal(err)
				}
				composition := kernel.Compose(batch.Requests)
				p := kernel.Evaluate(&composition)
				if !(relative(p.US, each.US[i]) <= 1e-9) || p.Margin != each.Margins[i] {
					t.Errorf("batch %d: %v us of margin %v; expected %v of %v", i, p.US, p.Margin, each.US[i], each.Margins[i])
				}
			}
		})
	}
	if verdicts["refused"] < 300 || verdicts["accepted"] < 100 || len(verdicts) != 2 {
		t.Errorf("%v; expected at least 300 refused and 100 accepted", verdicts)
	}
}

// TestEveryAliasAnswersWhateverAManifestLists: the same accelerator in every bundle that has it.
func TestEveryAliasAnswersWhateverAManifestLists(t *testing.T) {
	files := goldenFiles(t)
	data := files["manifest.json"]
	start := bytes.Index(data, []byte(`"hardware_aliases": {`))
	end := start + bytes.IndexByte(data[start:], '}')
	files["manifest.json"] = append(append(bytes.Clone(data[:start]), `"hardware_aliases": {"h100": "H100"`...), data[end:]...)
	sign(files, goldenFiles(t))
	bundle, err := load(files)
	if err != nil {
		t.Fatal(err)
	}
	for alias, name := range hardwareAliases {
		if found, ok := bundle.manifest.hardwareName(" " + alias); !ok || found != name {
			t.Errorf("%q is %q; expected %s", alias, found, name)
		}
	}
}

func TestEveryAliasOfPythonIsKnown(t *testing.T) {
	if c := readCorpus(t); !maps.Equal(c.Aliases, hardwareAliases) {
		t.Errorf("%v; expected %v", hardwareAliases, c.Aliases)
	}
}
