//go:build !linux && !darwin && !dragonfly && !freebsd && !netbsd && !openbsd

package fdwatch

func newBackend() (backend, error) { return nil, ErrNotSupported }
