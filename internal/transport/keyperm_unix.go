//go:build unix

package transport

import (
	"io/fs"
	"syscall"

	"github.com/lib/pq"
)

// checkKeyPermissions refuses a private key that others may read: beyond 0600,
// or, if it is root's, beyond 0640, which lets a group share a system-wide key.
func checkKeyPermissions(info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return pq.ErrSSLKeyUnknownOwnership
	}
	forbidden := fs.FileMode(0o077)
	if stat.Uid == 0 {
		forbidden = 0o037
	}
	if info.Mode().Perm()&forbidden != 0 {
		return pq.ErrSSLKeyHasWorldPermissions
	}
	return nil
}
