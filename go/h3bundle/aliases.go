package h3bundle

import (
	"fmt"
	"regexp"
	"strings"
)

// hardwareAliases are the names of drivers and clouds for accelerators, in lower case: the same in every bundle, so that none
// can answer for another accelerator than the one that was asked for. h3's catalog.py has the same.
var hardwareAliases = map[string]string{
	"h100":                  "H100",
	"h100-sxm":              "H100",
	"h100 sxm":              "H100",
	"nvidia h100 80gb hbm3": "H100",
	"h200":                  "H200",
	"h200-sxm":              "H200",
	"nvidia h200":           "H200",
	"a100":                  "A100",
	"a100-sxm":              "A100",
	"a100-80gb":             "A100",
	"a100 80gb":             "A100",
	"nvidia a100-sxm4-80gb": "A100",
	"l40s":                  "L40S",
	"nvidia l40s":           "L40S",
	"h100-vllm-0.24":        "H100-vLLM-0.24",
	"a100-80":               "A100",
	"a100-40gb":             "A100-40GB",
	"nvidia a100-sxm4-40gb": "A100-40GB",
	"h100-nvl":              "H100-NVL",
	"nvidia h100 nvl":       "H100-NVL",
	"b200":                  "B200",
	"nvidia b200":           "B200",
	"a10":                   "A10",
	"nvidia a10":            "A10",
	"l4":                    "L4",
	"nvidia l4":             "L4",
}

// hardwareNames have characters whose lower case is the same in any language.
var hardwareNames = regexp.MustCompile(`^[!-~]([ -~]{0,62}[!-~])?$`)

// checkHardware checks that names and aliases say of the manifest's hardware what hardwareAliases do, and nothing else but names
// in lower case; then Aliases holds every name that the hardware answers to.
func (m *manifest) checkHardware() error {
	names := map[string]string{}
	for name := range m.Hardware {
		if !hardwareNames.MatchString(name) {
			return fmt.Errorf("hardware: %.80q; expected a name of 1 to 64 ASCII characters", name)
		}
		alias := strings.ToLower(name)
		other, taken := names[alias]
		if known, ok := hardwareAliases[alias]; ok && known != name {
			other, taken = known, true
		}
		if taken {
			return fmt.Errorf("hardware: %q and %q; expected names that differ in more than case", name, other)
		}
		names[alias] = name
	}
	for alias, name := range hardwareAliases {
		if _, ok := m.Hardware[name]; ok {
			names[alias] = name
		}
	}
	for alias, name := range m.Aliases {
		if known, ok := names[alias]; !ok || known != name {
			return fmt.Errorf("hardware_aliases%s: %.80q; expected a known alias of hardware that is there, or its name in lower case", keyPlace(alias), name)
		}
	}
	m.Aliases = names
	return nil
}

// hardwareName is the accelerator that a name stands for.
func (m *manifest) hardwareName(name string) (string, bool) {
	found, ok := m.Aliases[strings.ToLower(strings.TrimSpace(name))]
	return found, ok
}
