package costkernel

import (
	"fmt"
	"strings"

	"github.com/inference-sim/h3/go/h3bundle"
)

// Provenance lists what a step's time and the overheads rest on: a row for each of the base's terms, for the accelerator's
// kernels, the trees, and each overhead. Methods and scopes are h3's words, not those of another registry.
func (k *Kernel) Provenance() []CoefficientOrigin {
	o := k.h3.Origin()
	set := "h3 bundle sha256:" + o.Digest
	learned := fmt.Sprintf("%s; %d deployments on %s", o.Serves, o.Deployments, strings.Join(o.TrainedOn, ", "))
	if o.Data != "" {
		learned += "; " + o.Data
	}
	var rows []CoefficientOrigin
	for _, name := range h3bundle.TermNames {
		rows = append(rows, CoefficientOrigin{name, set, "fitted on the periods of steps, non-negative, with a prior", learned})
	}
	rows = append(rows, CoefficientOrigin{"kernels", set, kernelsMethod(o), o.Hardware})
	rows = append(rows, CoefficientOrigin{"trees", set, fmt.Sprintf("%d gradient-boosted trees on what the terms leave", o.Trees), treesScope(o, learned)})
	method := o.Overheads
	if method == "" {
		method = "constants of the manifest"
	}
	for _, name := range []string{"queueing_us", "output_token_us", "post_decode_us"} {
		rows = append(rows, CoefficientOrigin{name, set, method, "all deployments alike"})
	}
	return rows
}

func kernelsMethod(o h3bundle.Origin) string {
	if o.KernelsMeasured {
		return "tables of single kernels, measured on the accelerator"
	}
	return fmt.Sprintf("tables of single kernels of %s, all-reduce of %s: not measured on the accelerator", o.KernelsOf, o.Links)
}

func treesScope(o h3bundle.Origin, learned string) string {
	if !o.TreesTrusted {
		return "not used: never tested on this deployment"
	}
	return learned + "; less outside the range of its features, none one range width beyond"
}
