package main

import (
	"errors"
	"io"
	"syscall"
)

// errNoData is the error of Windows for a pipe that nobody reads any more.
const errNoData = syscall.Errno(232)

// ignoreSIGPIPE has nothing to do: there is no such signal.
func ignoreSIGPIPE() {}

// isClosedPipe reports whether a write failed because nobody reads any more.
func isClosedPipe(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, errNoData) || errors.Is(err, syscall.ERROR_BROKEN_PIPE)
}

// watchReader is not implemented here: the next write sees that nobody reads any more.
func watchReader(io.Writer, func(error)) (stop func()) { return func() {} }
