//go:build !unix && !windows

package main

import "io"

// terminalWidth is not implemented here: nothing counts as a terminal.
func terminalWidth(io.Writer) (width int, ok bool) { return 0, false }
