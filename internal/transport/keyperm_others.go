//go:build !unix

package transport

import "io/fs"

// checkKeyPermissions accepts every file: there are no permission bits to go
// by. libpq does not check on Windows either.
func checkKeyPermissions(fs.FileInfo) error { return nil }
