// Command cmd serves a scenario's requests by the stand-in and prints a JSON object a deployment: the steps, and what became of
// each request.
//
//	go run ./blis/internal/standin/cmd -bundle DIR -scenario scenario.json
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/inference-sim/h3/go/blis/internal/standin"
	"github.com/inference-sim/h3/go/h3bundle"
)

func main() {
	bundle := flag.String("bundle", "", "folder of the bundle")
	scenario := flag.String("scenario", "", "file of requests and deployments")
	flag.Parse()
	if err := run(*bundle, *scenario); err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(2)
	}
}

func run(dir, file string) error {
	bundle, err := h3bundle.Open(dir)
	if err != nil {
		return err
	}
	scenario, err := standin.ReadScenario(file)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	for _, deployment := range scenario.Deployments {
		model, err := deployment.Model(bundle)
		if err != nil {
			return err
		}
		result, err := standin.Run(scenario.Requests(), deployment.Limits, model)
		if err != nil {
			return fmt.Errorf("%s: %w", deployment.Name, err)
		}
		if err := out.Encode(result); err != nil {
			return err
		}
	}
	return nil
}
