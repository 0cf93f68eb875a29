package h3bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Bounds on what is read from a file that nobody vouches for.
const (
	MaxFileBytes = 64_000_000
	maxDepth     = 32
	maxTrees     = 10_000
	maxNodes     = 65_535
	maxFeatures  = 32
	maxMargin    = 100.0 // sum over trees of the largest |leaf|: exp of it stays finite
	maxTokens    = 1<<31 - 1
	maxSize      = 1 << 24 // of a model: the largest vocabulary has 2^18 rows
)

// readFile returns a regular file of at most MaxFileBytes: opening a pipe that nobody writes to would wait for ever.
func readFile(fsys fs.FS, name string) ([]byte, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: no regular file; expected a file of a bundle", name)
	}
	file, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, MaxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(data) > MaxFileBytes {
		return nil, fmt.Errorf("%s: more than %d bytes", name, MaxFileBytes)
	}
	return data, nil
}

// digest returns the hex sha256 of data.
func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// checkDepth counts brackets outside strings, without building anything.
func checkDepth(data []byte) error {
	depth, inString := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return fmt.Errorf("nested deeper than %d", maxDepth)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// decode reads one JSON value of a model's config or a batch, whose keys are not h3's; unknown keys are errors where strict.
func decode(data []byte, strict bool, target any) error {
	if len(data) > MaxFileBytes {
		return fmt.Errorf("more than %d bytes", MaxFileBytes)
	}
	if err := checkDepth(data); err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if strict {
		decoder.DisallowUnknownFields()
	}
	if err := decoder.Decode(target); err != nil {
		return fmt.Errorf("not the JSON expected: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}
