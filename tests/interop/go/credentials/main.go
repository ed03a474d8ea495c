// What a server in operator mode trusts, and the credentials of its users, all signed here and now.
//
//	credentials DIR               make these files
//	credentials DIR NAME SECONDS  make NAME.creds, which expires that soon; DIR was filled before
//
//	operator.conf    for a server's configuration: operator, accounts, resolver
//	user.creds       valid for a day
//	stranger.creds   of an account that the server does not know
//	user.seed        an nkey of its own, for a server without operator; its public half is in user.public
//	stranger.seed    an nkey that no server knows
//	account.seed     what signs later credentials
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, "credentials:", err)
		os.Exit(1)
	}
	return value
}

func public(key nkeys.KeyPair) string {
	return must(key.PublicKey())
}

func seed(key nkeys.KeyPair) []byte {
	return must(key.Seed())
}

func write(name string, content []byte) {
	must(0, os.WriteFile(name, content, 0o600))
}

// userCreds returns the text of a credentials file, signed by the account.
func userCreds(account nkeys.KeyPair, lifetime time.Duration) []byte {
	user := must(nkeys.CreateUser())
	claims := jwt.NewUserClaims(public(user))
	claims.Name = "user"
	claims.Expires = time.Now().Add(lifetime).Unix()
	return must(jwt.FormatUserConfig(must(claims.Encode(account)), seed(user)))
}

func accountToken(operator, account nkeys.KeyPair, name string) string {
	claims := jwt.NewAccountClaims(public(account))
	claims.Name = name
	return must(claims.Encode(operator))
}

func makeAll(dir string) {
	operator := must(nkeys.CreateOperator())
	system := must(nkeys.CreateAccount())
	account := must(nkeys.CreateAccount())
	stranger := must(nkeys.CreateAccount())
	user := must(nkeys.CreateUser())

	claims := jwt.NewOperatorClaims(public(operator))
	claims.Name = "operator"
	claims.SystemAccount = public(system)
	config := fmt.Sprintf("operator: %s\nresolver: MEMORY\nresolver_preload: {\n  %s: %s\n  %s: %s\n}\n",
		must(claims.Encode(operator)),
		public(system), accountToken(operator, system, "SYS"),
		public(account), accountToken(operator, account, "account"))

	write(filepath.Join(dir, "operator.conf"), []byte(config))
	write(filepath.Join(dir, "user.creds"), userCreds(account, 24*time.Hour))
	write(filepath.Join(dir, "stranger.creds"), userCreds(stranger, 24*time.Hour))
	write(filepath.Join(dir, "user.seed"), seed(user))
	write(filepath.Join(dir, "stranger.seed"), seed(must(nkeys.CreateUser())))
	write(filepath.Join(dir, "user.public"), []byte(public(user)))
	write(filepath.Join(dir, "account.seed"), seed(account))
}

func main() {
	switch len(os.Args) {
	case 2:
		makeAll(os.Args[1])
	case 4:
		account := must(nkeys.FromSeed(must(os.ReadFile(filepath.Join(os.Args[1], "account.seed")))))
		seconds := must(strconv.Atoi(os.Args[3]))
		creds := userCreds(account, time.Duration(seconds)*time.Second)
		write(filepath.Join(os.Args[1], os.Args[2]+".creds"), creds)
	default:
		fmt.Fprintln(os.Stderr, "usage: credentials DIR [NAME SECONDS]")
		os.Exit(2)
	}
}
