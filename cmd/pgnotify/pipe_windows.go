package main

import (
	"errors"
	"io"
	"syscall"
)

// errNoData is what Windows says of a pipe that nobody reads any more.
const errNoData = syscall.Errno(232)

// ignoreSIGPIPE has nothing to do: there is no such signal.
func ignoreSIGPIPE() {}

// isClosedPipe reports whether a write failed because nobody reads any more.
func isClosedPipe(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, errNoData) || errors.Is(err, syscall.ERROR_BROKEN_PIPE)
}

// watchReader is not implemented here: that nobody reads any more is seen by the
// next write.
func watchReader(io.Writer, func(error)) (stop func()) { return func() {} }
