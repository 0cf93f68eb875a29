// Package champion embeds the bundle that ships with h3: what it was learned from, its folds and its errors are in its manifest.
//
//	bundle, err := h3bundle.Load(champion.Files, ".")
package champion

import "embed"

// Files are the bundle's files; golden.json, which tests read, is not among them.
//
//go:embed manifest.json manifest.sha256 booster.json
var Files embed.FS
