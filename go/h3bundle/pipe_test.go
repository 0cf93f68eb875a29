//go:build unix

package h3bundle

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestOnlyRegularFilesAreRead(t *testing.T) {
	for name := range goldenFiles(t) {
		for _, kind := range []string{"pipe", "folder"} {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(goldenDir)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, name)
			err := os.Remove(path)
			if kind == "pipe" {
				err = errors.Join(err, syscall.Mkfifo(path, 0o600))
			} else {
				err = errors.Join(err, os.Mkdir(path, 0o700))
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), name+": no regular file") {
				t.Errorf("%s as a %s: %v", name, kind, err)
			}
		}
	}
}
