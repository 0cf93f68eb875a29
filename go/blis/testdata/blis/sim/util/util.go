package util

func Len64[T any](list []T) int64 { return int64(len(list)) }
