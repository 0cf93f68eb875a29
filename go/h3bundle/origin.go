package h3bundle

import (
	"maps"
	"slices"
)

// origin is what a kernel was made of.
type origin struct {
	bundle          *Bundle
	deployment      Deployment
	model, hardware string // names in the manifest
}

// Origin says what a kernel's numbers rest on.
type Origin struct {
	Digest       string            // of the bundle's manifest
	Data         string            // what the bundle was learned from, in words; "" where it does not say
	Serves       string            // the models that these coefficients serve: dense, MoE, or both
	Coefficients [numTerms]float64 // in the order of TermNames

	Deployments int      // that the bundle was trained on
	TrainedOn   []string // accelerators among them

	Hardware         string // the kernel's, as the manifest names it
	KernelsMeasured  bool   // on the accelerator itself, with its figures
	KernelsOf, Links string // accelerators whose kernels and whose all-reduce stand for its own
	OverPCIe         bool   // its GPUs exchange over PCIe

	Trees        int
	TreesTrusted bool // they were tested on this deployment, or on any
	Overheads    string
}

// Origin collects it from the manifest.
func (k *Kernel) Origin() Origin {
	o, m := &k.origin, k.origin.bundle.manifest
	h := m.Hardware[o.hardware]
	found := Origin{
		Digest: o.bundle.digest, Data: o.bundle.Data(), Serves: m.served(o.model), Coefficients: k.coefficients,
		Deployments: len(m.TrainedOn.Deployments), Hardware: o.hardware, KernelsMeasured: h.Kernels.Measured,
		KernelsOf: h.Kernels.Profile, Links: h.Kernels.Link, OverPCIe: h.NVLinkBandwidthBytesS < m.Constants.LeastNVLinkBytesS,
		Trees: m.Models[o.model].Trees, TreesTrusted: k.trusted > 0,
	}
	names := map[string]bool{}
	for _, d := range m.TrainedOn.Deployments {
		names[d.Hardware] = true
	}
	found.TrainedOn = slices.Sorted(maps.Keys(names))
	found.Overheads = m.Provenance.Overheads.textual()
	return found
}

// served says which architectures are routed to a model.
func (m *manifest) served(model string) string {
	switch {
	case m.Routing.Dense == m.Routing.MoE:
		return "dense and MoE models"
	case m.Routing.MoE == model:
		return "MoE models"
	}
	return "dense models"
}
