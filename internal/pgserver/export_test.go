package pgserver

import (
	"context"
	"fmt"
	"os"
	"strings"

	dc "github.com/ory/dockertest/v3/docker"
)

// FindBin is findBin.
var FindBin = findBin

// FindInstalled reports where Installed would look.
func FindInstalled() (string, error) { return findBin(os.Getenv("PATH"), binPatterns, 0) }

// CheckDocker reports whether Docker can be used without pulling the image.
func CheckDocker(ctx context.Context) error {
	client, err := dialDocker(ctx)
	if err != nil {
		return err
	}
	if _, err := client.InspectImage(defaultImage); err != nil {
		return fmt.Errorf("image %s: %w", defaultImage, err)
	}
	return nil
}

// NewFolder is newFolder for our own account.
func NewFolder(bases []string, usable func(string) error) (path string, remove func() error, err error) {
	f, err := newFolder(bases, nil, "", usable)
	if err != nil {
		return "", nil, err
	}
	return f.path, f.remove, nil
}

// SetBinPatterns changes where Installed looks besides PATH, and returns what
// undoes that.
func SetBinPatterns(patterns []string) (undo func()) {
	old := binPatterns
	binPatterns = patterns
	return func() { binPatterns = old }
}

// SetDownload changes from which Maven repository Download gets the binaries, and where
// it keeps those that root has downloaded. It returns what undoes that.
func SetDownload(repository, cache string) (undo func()) {
	oldRepository, oldCache := mavenRepository, rootCache
	mavenRepository, rootCache = repository, cache
	return func() { mavenRepository, rootCache = oldRepository, oldCache }
}

// RootCache is rootCache.
func RootCache() string { return rootCache }

// NPMPackage is npmPackage.
var NPMPackage = npmPackage

// ContainerExists reports whether the daemon knows the container.
func ContainerExists(ctx context.Context, id string) bool {
	client, err := dialDocker(ctx)
	if err != nil {
		return false
	}
	_, err = client.InspectContainerWithContext(id, ctx)
	return err == nil
}

// RemoveContainer removes the container, if it is there.
func RemoveContainer(ctx context.Context, id string) {
	if client, err := dialDocker(ctx); err == nil {
		_ = client.RemoveContainer(dc.RemoveContainerOptions{ID: id, Force: true, RemoveVolumes: true, Context: ctx})
	}
}

// ContainersOf returns the ids of our containers whose command has the text.
func ContainersOf(ctx context.Context, text string) (ids []string, err error) {
	client, err := dialDocker(ctx)
	if err != nil {
		return nil, err
	}
	all, err := client.ListContainers(dc.ListContainersOptions{
		All: true, Filters: map[string][]string{"label": {expiryLabel}}, Context: ctx,
	})
	for _, c := range all {
		if strings.Contains(c.Command, text) {
			ids = append(ids, c.ID)
		}
	}
	return ids, err
}
