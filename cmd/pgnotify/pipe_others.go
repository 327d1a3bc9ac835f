//go:build !unix && !windows

package main

import (
	"errors"
	"io"
)

// ignoreSIGPIPE has nothing to do: there is no such signal.
func ignoreSIGPIPE() {}

// isClosedPipe reports whether a write failed because nobody reads any more.
func isClosedPipe(err error) bool { return errors.Is(err, io.ErrClosedPipe) }

// watchReader is not implemented here: the next write sees that nobody reads any more.
func watchReader(io.Writer, func(error)) (stop func()) { return func() {} }
