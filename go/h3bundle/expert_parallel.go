package h3bundle

import "math"

// mostTabledExperts bounds the table; with more experts than these, all ranks are taken to read alike.
const mostTabledExperts = 1024

// slowestRanks is, for each number of visited experts, how many the rank with most of them has to read, where experts lie whole
// on ranks (expert parallelism inside a tensor-parallel group) instead of being sliced over them. Tokens reach all ranks and an
// all-reduce ends the layer in both layouts, so nothing else changes; but a step waits for that rank. V of E experts, any V
// alike, leave every rank of m with at most j in [x^V] (sum over i <= j of C(m, i) x^i)^R / C(E, V) of all cases.
func slowestRanks(experts, ranks int) []float64 {
	perRank := (experts + ranks - 1) / ranks
	sizes := make([]int, ranks) // the last ranks may have fewer
	for i := range sizes {
		sizes[i] = max(0, min(perRank, experts-i*perRank))
	}
	all := ways(sizes, experts, perRank)
	slowest := make([]float64, experts+1)
	for most := range perRank {
		for visited, cases := range ways(sizes, experts, most) {
			if all[visited] > 0 {
				slowest[visited] += 1 - min(1, cases/all[visited])
			}
		}
	}
	return slowest
}

// ways is how many choices of 0, 1, ... experts leave at most so many on each rank, over 2^experts.
func ways(sizes []int, experts, most int) []float64 {
	product := make([]float64, experts+1)
	product[0] = 1
	for _, size := range sizes {
		next := make([]float64, experts+1)
		chosen := math.Pow(0.5, float64(size)) // C(size, i) / 2^size
		for i := 0; i <= min(size, most); i++ {
			for j := 0; j+i <= experts; j++ {
				next[i+j] += chosen * product[j]
			}
			chosen *= float64(size-i) / float64(i+1)
		}
		product = next
	}
	return product
}

// unevenness is how many times the mean rank's experts the slowest rank reads where so large a share of them is visited.
func (p *physics) unevenness(coverage float64) float64 {
	if p.slowest == nil {
		return 1
	}
	visited := coverage * p.experts
	below := min(int(visited), len(p.slowest)-2)
	part := visited - float64(below)
	return ((1-part)*p.slowest[below] + float64(part*p.slowest[below+1])) * p.ranks / visited
}
