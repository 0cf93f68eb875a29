package h3bundle

import (
	"math"
	"math/rand"
	"testing"
)

// slowestRank routes tokens by chance and returns the mean over trials of the most experts that a rank visits.
func slowestRank(random *rand.Rand, experts, topK, ranks, tokens, trials int) float64 {
	perRank, total := (experts+ranks-1)/ranks, 0
	for range trials {
		visited, counts, most := make([]bool, experts), make([]int, ranks), 0
		for range tokens {
			for _, expert := range random.Perm(experts)[:topK] {
				visited[expert] = true
			}
		}
		for expert, seen := range visited {
			if seen {
				counts[expert/perRank]++
				most = max(most, counts[expert/perRank])
			}
		}
		total += most
	}
	return float64(total) / float64(trials)
}

func TestTheSlowestRankReadsAsManyExpertsAsRoutingByChanceGivesIt(t *testing.T) {
	random := rand.New(rand.NewSource(4))
	for _, model := range []struct{ experts, topK, ranks int }{{8, 2, 4}, {8, 2, 2}, {128, 8, 4}, {16, 1, 8}, {60, 4, 8}} {
		p := physics{experts: float64(model.experts), ranks: float64(model.ranks), slowest: slowestRanks(model.experts, model.ranks)}
		for _, tokens := range []int{1, 4, 32} {
			share := 1 - math.Pow(1-float64(model.topK)/float64(model.experts), float64(tokens))
			told := p.unevenness(share) * share * p.experts / p.ranks
			if found := slowestRank(random, model.experts, model.topK, model.ranks, tokens, 4000); math.Abs(told/found-1) > 0.03 {
				t.Errorf("%v, %d tokens: %.3f experts on the slowest rank; routing by chance %.3f", model, tokens, told, found)
			}
		}
		whole := math.Ceil(p.experts/p.ranks) * p.ranks / p.experts
		if told := p.unevenness(1); math.Abs(told-whole) > 1e-9 {
			t.Errorf("%v: every expert visited, %.4f of the even share; expected %.4f, a whole rank", model, told, whole)
		}
	}
}

func TestExpertsThatLieWholeOnRanksSlowSmallBatchesAlone(t *testing.T) {
	bundle, g := openGolden(t), readGolden(t)
	arch, err := ParseConfig(g.Configs["mixtral-8x7b"])
	if err != nil {
		t.Fatal(err)
	}
	us := func(whole bool, tp int, requests int) float64 {
		kernel, err := bundle.Kernel(Deployment{Architecture: arch, TensorParallelism: tp, Hardware: "H100", ExpertParallel: whole})
		if err != nil {
			t.Fatal(err)
		}
		c := kernel.Compose(slicesOf(requests))
		return kernel.Evaluate(&c).BaseUS
	}
	if one := us(true, 4, 1) / us(false, 4, 1); one < 1.3 || one > 2.3 {
		t.Errorf("one request: %.3f of the sliced layout; two of eight experts on four ranks are 1.14 against 0.5", one)
	}
	if many := us(true, 4, 128) / us(false, 4, 128); math.Abs(many-1) > 1e-6 {
		t.Errorf("128 requests: %.6f of the sliced layout; expected the same, every expert is read", many)
	}
	if alone := us(true, 1, 3); alone != us(false, 1, 3) {
		t.Errorf("one GPU: %v us; expected as without", alone)
	}
}

func slicesOf(requests int) []Request {
	all := make([]Request, requests)
	for i := range all {
		all[i] = Request{ProgressIndex: 600, NewTokens: 1, PromptTokens: 512}
	}
	return all
}
