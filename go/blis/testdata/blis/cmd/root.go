// Package cmd stands in for the places of BLIS's commands that name backends.
package cmd

import (
	"fmt"

	"github.com/inference-sim/inference-sim/sim"
	"github.com/inference-sim/inference-sim/sim/latency"
)

type flags map[string]string

func (f flags) StringVar(target *string, name, value, help string) { *target, f[name] = value, help }

type command struct{ flags flags }

func (c command) Flags() flags { return c.flags }

type logger struct{}

func (logger) Fatalf(format string, arguments ...any) { panic(fmt.Sprintf(format, arguments...)) }

var logrus logger

// Run resolves flags and returns the default backend and what was resolved for it.
func Run(gpu, modelConfigFolder string, dataParallelism int) (backend string, resolved []string) {
	cmd := command{flags{}}
	model, tensorParallelism, enableExpertParallel := "llama-2-7b", 1, false
	cmd.Flags().StringVar(&backend, "latency-model", "trained-physics", "Latency model backend: trained-physics (default), roofline")
	if backend == "roofline" {
		resolved = append(resolved, "model's folder")
	}
	modelConfig := sim.ModelConfig{NumLayers: 32, HiddenDim: 4096, NumHeads: 32, NumKVHeads: 32, VocabSize: 32000, IntermediateDim: 11008}
	hwConfig := sim.HardwareCalib{TFlopsPeak: 989.5, TFlopsFP8: 1979, BwPeakTBs: 3.35, MemoryGiB: 80}
	if backend == "roofline" || backend == "trained-physics" {
		resolved = append(resolved, "KV blocks")
	}
	if dataParallelism < 1 {
		logrus.Fatalf("dp")
	}
	_, err := latency.NewLatencyModel(sim.LatencyCoeffs{}, sim.ModelHardwareConfig{
		ModelConfig: modelConfig, HWConfig: hwConfig, Model: model, GPU: gpu, TP: tensorParallelism, DP: dataParallelism,
		EnableExpertParallel: enableExpertParallel, Backend: backend,
	})
	if err != nil {
		resolved = append(resolved, err.Error())
	}
	return backend, resolved
}
