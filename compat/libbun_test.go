package compat

import (
	"context"
	"database/sql"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/pgnotify/pgnotify"
)

type bunBook struct {
	bun.BaseModel `bun:"table:bun_books,alias:b"`

	ID     int64          `bun:",pk,autoincrement"`
	Title  string         `bun:",notnull,unique"`
	Tags   []string       `bun:",array"`
	Years  []int          `bun:",array"`
	Meta   map[string]any `bun:"type:jsonb"`
	Cover  []byte
	Parent *int64
	Added  time.Time `bun:",nullzero,notnull,default:current_timestamp"`
}

// bunBooks are made anew for each test, since bun fills in what is returned.
func bunBooks() []*bunBook {
	parent := int64(1)
	return []*bunBook{
		{Title: `it's "one" \ two?`, Tags: []string{"a,b", `c"d`, ""}, Years: []int{1999, -1},
			Meta: map[string]any{"pages": 12.0, "in": []any{"de", "en"}}, Cover: []byte{0, '\'', 0xff}},
		{Title: "two", Tags: []string{"x"}, Meta: map[string]any{}, Parent: &parent},
	}
}

// errUndo is what rolls a transaction back.
var errUndo = errors.New("undo")

func testBun(t *testing.T, db *sql.DB) {
	ctx := deadline(t)
	b := bun.NewDB(db, pgdialect.New()) // not closed: that would close the pool
	_, err := b.NewCreateTable().Model((*bunBook)(nil)).Exec(ctx)
	check(t, "create table", err)
	books := bunBooks()
	_, err = b.NewInsert().Model(&books).Returning("id, added").Exec(ctx)
	check(t, "insert", err)
	for i, book := range books {
		if book.ID != int64(i+1) || time.Since(book.Added).Abs() > time.Hour {
			t.Errorf("insert returned id %d, added %v", book.ID, book.Added)
		}
	}
	_, err = b.NewInsert().Model(bunBooks()[1]).Exec(ctx)
	checkUnique(t, err, "bun_books_title_key")
	checkBunSelect(ctx, t, b, books)
	checkBunTx(ctx, t, b)
}

// checkBunSelect reads back what was inserted. bun writes arguments into the text
// of a statement, so the same is asked for through a prepared statement too.
func checkBunSelect(ctx context.Context, t *testing.T, b *bun.DB, want []*bunBook) {
	t.Helper()
	var books []*bunBook
	check(t, "select", b.NewSelect().Model(&books).Order("id").Scan(ctx))
	for i, book := range books {
		if !book.Added.Equal(want[i].Added) {
			t.Errorf("added %v, want %v", book.Added, want[i].Added)
		}
		book.Added = want[i].Added
	}
	if !reflect.DeepEqual(books, want) {
		t.Errorf("select: %+v\nwant %+v", books, want)
	}
	n, err := b.NewSelect().Model((*bunBook)(nil)).
		Where("tags && ?", pgdialect.Array([]string{"x", "c\"d"})).Where("meta ->> 'pages' = ?", "12").Count(ctx)
	if n != 1 || err != nil {
		t.Errorf("count: %d, %v", n, err)
	}
	stmt, err := b.PrepareContext(ctx, "select title from bun_books where id = $1")
	check(t, "prepare", err)
	defer stmt.Close()
	for _, book := range want {
		var title string
		check(t, "prepared", stmt.QueryRowContext(ctx, book.ID).Scan(&title))
		if title != book.Title {
			t.Errorf("prepared: %q, want %q", title, book.Title)
		}
	}
}

// checkBunTx has a statement fail in a nested transaction, which is a savepoint,
// and goes on in the outer one; then an outer one that is undone, and a savepoint
// of pgnotify's in bun's.
func checkBunTx(ctx context.Context, t *testing.T, b *bun.DB) {
	t.Helper()
	rename := func(ctx context.Context, tx bun.Tx, id int64, title string) error {
		_, err := tx.NewUpdate().Model((*bunBook)(nil)).Set("title = ?", title).Where("id = ?", id).Exec(ctx)
		return err
	}
	check(t, "transaction", b.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		check(t, "update", rename(ctx, tx, 1, "uno"))
		checkUnique(t, tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			check(t, "nested update", rename(ctx, tx, 1, "undone"))
			return rename(ctx, tx, 2, "undone")
		}), "bun_books_title_key")
		checkUnique(t, pgnotify.InSavepoint(ctx, tx, func() error {
			return rename(ctx, tx, 2, "uno")
		}), "bun_books_title_key")
		return rename(ctx, tx, 2, "dos")
	}))
	err := b.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		check(t, "update", rename(ctx, tx, 1, "undone"))
		return errUndo
	})
	if !errors.Is(err, errUndo) {
		t.Errorf("a transaction that is undone: %v", err)
	}
	var titles []string
	check(t, "select", b.NewSelect().Model((*bunBook)(nil)).Column("title").Order("id").Scan(ctx, &titles))
	if want := []string{"uno", "dos"}; !reflect.DeepEqual(titles, want) {
		t.Errorf("after the transactions: %q, want %q", titles, want)
	}
}
