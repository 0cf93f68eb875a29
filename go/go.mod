module github.com/inference-sim/h3/go

go 1.24
