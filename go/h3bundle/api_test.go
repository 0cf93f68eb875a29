package h3bundle

import (
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/api.txt anew")

// TestTheAPIIsAsPromised: what others build on is in testdata/api.txt; a line that goes or changes there
// needs a new major version of the module.
func TestTheAPIIsAsPromised(t *testing.T) {
	var lines []string
	set := token.NewFileSet()
	packages, err := parser.ParseDir(set, ".", func(info fs.FileInfo) bool { return !strings.HasSuffix(info.Name(), "_test.go") }, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range packages["h3bundle"].Files {
		for _, declared := range file.Decls {
			lines = append(lines, exported(set, declared)...)
		}
	}
	slices.Sort(lines)
	found, path := strings.Join(lines, "\n")+"\n", filepath.Join("testdata", "api.txt")
	if *update {
		if err := os.WriteFile(path, []byte(found), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	promised, err := os.ReadFile(path)
	if err != nil || string(promised) != found {
		t.Errorf("the exported names are no longer those of testdata/api.txt (%v); if they are meant to be: go test ./h3bundle -run API -update\n%s", err, found)
	}
}

// exported are the exported names of a declaration, one a line: functions and methods as they are called, types with their fields.
func exported(set *token.FileSet, declared ast.Decl) (lines []string) {
	switch d := declared.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && (d.Recv == nil || ast.IsExported(receiver(d))) {
			d.Body, d.Doc = nil, nil
			lines = append(lines, printed(set, d))
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() {
					lines = append(lines, "type "+s.Name.Name)
					lines = append(lines, fields(set, s)...)
				}
			case *ast.ValueSpec:
				for _, name := range s.Names {
					if name.IsExported() {
						lines = append(lines, d.Tok.String()+" "+name.Name)
					}
				}
			}
		}
	}
	return lines
}

func receiver(d *ast.FuncDecl) string {
	kind := d.Recv.List[0].Type
	if star, ok := kind.(*ast.StarExpr); ok {
		kind = star.X
	}
	if name, ok := kind.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}

func fields(set *token.FileSet, s *ast.TypeSpec) (lines []string) {
	structure, ok := s.Type.(*ast.StructType)
	if !ok {
		return nil
	}
	for _, field := range structure.Fields.List {
		for _, name := range field.Names {
			if name.IsExported() {
				lines = append(lines, "field "+s.Name.Name+"."+name.Name+" "+printed(set, field.Type))
			}
		}
	}
	return lines
}

func printed(set *token.FileSet, node any) string {
	var out bytes.Buffer
	if err := printer.Fprint(&out, set, node); err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(out.String()), " ")
}
