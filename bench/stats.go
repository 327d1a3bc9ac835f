package main

import "slices"

// quantile returns the value below which the share q of all values lies, from 0
// to 1, with straight lines between neighbours. Of no values it is 0.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 == len(sorted) {
		return sorted[i]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

// medianOf is a summary: the median between the quartiles.
func medianOf(values []float64) cell {
	return cell{quantile(values, 0.5), quantile(values, 0.25), quantile(values, 0.75)}
}

// p95Of is a summary: what 95 of 100 values stay below.
func p95Of(values []float64) cell {
	p := quantile(values, 0.95)
	return cell{p, p, p}
}

// p99Of is the same for 99 of 100.
func p99Of(values []float64) cell {
	p := quantile(values, 0.99)
	return cell{p, p, p}
}

// percentOf is a summary of values that are 0 or 1.
func percentOf(values []float64) cell {
	var sum float64
	for _, v := range values {
		sum += v
	}
	p := 100 * sum / float64(max(len(values), 1))
	return cell{p, p, p}
}

func ratio(value, base float64) float64 {
	if base == 0 {
		return 0
	}
	return value / base
}

func difference(value, base float64) float64 { return value - base }

// sumOf is a summary.
func sumOf(values []float64) cell {
	var sum float64
	for _, v := range values {
		sum += v
	}
	return cell{sum, sum, sum}
}

// inNanos returns a summary of values in µs that is in ns.
func inNanos(summary func([]float64) cell) func([]float64) cell {
	return func(values []float64) cell {
		c := summary(values)
		return cell{1000 * c.Value, 1000 * c.Low, 1000 * c.High}
	}
}
