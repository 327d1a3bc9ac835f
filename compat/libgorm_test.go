package compat

import (
	"database/sql"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/lib/pq"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/logger"
)

// A gormAccount is what the table is made for, and a gormAccountLater what it is
// changed to.
type gormAccount struct {
	ID      uint
	Email   string         `gorm:"size:100;uniqueIndex:,composite:email"`
	Balance int64          `gorm:"not null;default:10"`
	Tags    pq.StringArray `gorm:"type:text[]"`
	Created time.Time      `gorm:"autoCreateTime"`
}

type gormAccountLater struct {
	ID      uint
	Email   string         `gorm:"size:200;uniqueIndex:,composite:email"`
	Balance float64        `gorm:"not null;default:10;type:numeric(10,2)"`
	Tags    pq.StringArray `gorm:"type:text[]"`
	Created time.Time      `gorm:"autoCreateTime"`
	Note    *string        `gorm:"default:none"`
}

func testGORM(t *testing.T, db *sql.DB) {
	testGORMWith(t, db, "gorm_accounts", gorm.Config{})
}

// testGORMPrepared has GORM keep statements of its own, for ever: with any other
// time it starts a goroutine that nothing ends.
func testGORMPrepared(t *testing.T, db *sql.DB) {
	testGORMWith(t, db, "gorm_prepared", gorm.Config{
		PrepareStmt: true, PrepareStmtTTL: 10 * 365 * 24 * time.Hour, TranslateError: true,
	})
}

// testGORMWith names the driver. Without a name GORM takes it for pgx, and its
// migration of a table that exists gives pgx's QueryExecMode as an argument.
func testGORMWith(t *testing.T, db *sql.DB, table string, config gorm.Config) {
	config.Logger = logger.Discard
	g, err := gorm.Open(postgres.New(postgres.Config{DriverName: "pgnotify", Conn: db}), &config)
	check(t, "open", err)
	g = g.WithContext(deadline(t))
	accounts := func(g *gorm.DB) *gorm.DB { return g.Table(table) }
	for range 2 {
		check(t, "migrate", accounts(g).AutoMigrate(&gormAccount{}))
	}
	ann := gormAccount{Email: "ann@x", Tags: pq.StringArray{`a "b"`, "c,d", ""}}
	check(t, "create", accounts(g).Create(&ann).Error)
	if ann.ID != 1 || ann.Balance != 10 {
		t.Errorf("create returned id %d, balance %d; want 1, 10", ann.ID, ann.Balance)
	}
	var found gormAccount
	check(t, "first", accounts(g).First(&found, "email = ?", "ann@x").Error)
	rounded := found.Created.Sub(ann.Created).Abs()
	if found.ID != 1 || !reflect.DeepEqual(found.Tags, ann.Tags) || rounded > time.Microsecond {
		t.Errorf("first: %+v, want %+v", found, ann)
	}
	err = accounts(g).First(&found, "email = ?", "nobody").Error
	if !errors.Is(err, gorm.ErrRecordNotFound) {
		t.Errorf("first of none: %v", err)
	}
	checkGORMMigration(t, g, accounts)
	checkGORMTx(t, g, accounts, func(err error) {
		if !config.TranslateError {
			checkUnique(t, err, "idx_"+table+"_email")
		} else if !errors.Is(err, gorm.ErrDuplicatedKey) {
			t.Errorf("%v (%T), want %v", err, err, gorm.ErrDuplicatedKey)
		}
	})
}

// checkGORMMigration changes the table, and asks as before: the statements that
// the sessions and GORM have kept are of the old one.
func checkGORMMigration(t *testing.T, g *gorm.DB, accounts func(*gorm.DB) *gorm.DB) {
	t.Helper()
	for range 2 {
		check(t, "migrate", accounts(g).AutoMigrate(&gormAccountLater{}))
	}
	columns, err := accounts(g).Migrator().ColumnTypes(&gormAccountLater{})
	check(t, "column types", err)
	var types []string
	for _, c := range columns {
		if n, ok := c.Length(); c.Name() == "email" && (!ok || n != 200) {
			t.Errorf("the length of email is %d, %t; want 200", n, ok)
		}
		types = append(types, c.Name()+" "+c.DatabaseTypeName())
	}
	want := []string{"id int8", "email varchar", "balance numeric", "tags text[]",
		"created timestamptz", "note text"}
	if !reflect.DeepEqual(types, want) {
		t.Errorf("columns after the migration: %q, want %q", types, want)
	}
	var found gormAccountLater
	check(t, "first", accounts(g).First(&found, "email = ?", "ann@x").Error)
	if found.ID != 1 || found.Balance != 10 || found.Note == nil || *found.Note != "none" {
		t.Errorf("first after the migration: %+v", found)
	}
}

// checkGORMTx has a nested transaction fail, which is a savepoint, and an outer
// one; unique checks the error of each.
func checkGORMTx(t *testing.T, g *gorm.DB, accounts func(*gorm.DB) *gorm.DB, unique func(error)) {
	t.Helper()
	create := func(g *gorm.DB, email string, balance float64) error {
		return accounts(g).Create(&gormAccountLater{Email: email, Balance: balance}).Error
	}
	check(t, "transaction", g.Transaction(func(tx *gorm.DB) error {
		check(t, "create", create(tx, "bob@x", 1.25))
		unique(tx.Transaction(func(tx *gorm.DB) error {
			check(t, "nested create", create(tx, "undone@x", 1))
			return create(tx, "ann@x", 1)
		}))
		return tx.Transaction(func(tx *gorm.DB) error { return create(tx, "cid@x", 2.5) })
	}))
	unique(g.Transaction(func(tx *gorm.DB) error {
		check(t, "create", create(tx, "undone@x", 1))
		return create(tx, "bob@x", 1)
	}))
	bob := gormAccountLater{Email: "bob@x", Balance: 3.75}
	check(t, "upsert", accounts(g).Clauses(clause.Returning{}, clause.OnConflict{
		Columns: []clause.Column{{Name: "email"}}, DoUpdates: clause.AssignmentColumns([]string{"balance"}),
	}).Create(&bob).Error)
	if bob.Note == nil || *bob.Note != "none" {
		t.Errorf("upsert returned %+v", bob)
	}
	var balances []float64
	check(t, "pluck", accounts(g).Order("email").Pluck("balance", &balances).Error)
	if want := []float64{10, 3.75, 2.5}; !reflect.DeepEqual(balances, want) {
		t.Errorf("balances after the transactions: %v, want %v", balances, want)
	}
}
