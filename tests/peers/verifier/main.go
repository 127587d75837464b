// Verifier checks notes and proofs of transparency logs with Go's own packages, for the tests.
//
// Each line of its input is a question in JSON, each line of its output the answer; bytes are base64. An
// answer with an error is a refusal. Of msb-cache it knows what docs/event-log.md says, and no more.
package main

import (
	"bufio"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type question struct {
	Do      string      `json:"do"`
	Note    []byte      `json:"note"`
	Keys    []string    `json:"keys"`
	Secrets []string    `json:"secrets"`
	Time    uint64      `json:"time"`
	Text    string      `json:"text"`
	Leaf    []byte      `json:"leaf"`
	Path    []tlog.Hash `json:"path"`
	Index   int64       `json:"index"`
	Size    int64       `json:"size"`
	Root    tlog.Hash   `json:"root"`
	Old     int64       `json:"old"`
	OldRoot tlog.Hash   `json:"old_root"`
}

type answer map[string]interface{}

func main() {
	lines, out := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var asked question
		found := answer{}
		if err = json.Unmarshal(line, &asked); err == nil {
			err = asked.ask(found)
		}
		if err != nil {
			found = answer{"error": err.Error()}
		}
		out.Encode(found)
	}
}

func (q question) ask(found answer) error {
	switch q.Do {
	case "note":
		return opened(q.Note, q.Keys, found)
	case "proof":
		return proved(q.Note, q.Keys, found)
	case "sign":
		return q.sign(found)
	case "inclusion":
		return tlog.CheckRecord(q.Path, q.Size, q.Root, q.Index, tlog.RecordHash(q.Leaf))
	case "consistency":
		return tlog.CheckTree(q.Path, q.Size, q.Root, q.Old, q.OldRoot)
	}
	return fmt.Errorf("nothing is called %q", q.Do)
}

// sign makes a note of a text with secret keys, those of witnesses among them.
func (q question) sign(found answer) error {
	var signers []note.Signer
	for _, secret := range q.Secrets {
		signer, err := signerOf(secret, q.Time)
		if err != nil {
			return err
		}
		signers = append(signers, signer)
	}
	made, err := note.Sign(&note.Note{Text: q.Text}, signers...)
	found["note"] = made
	return err
}

// opened finds who of the keys has signed a note, and what it says if it is a checkpoint.
func opened(data []byte, keys []string, found answer) error {
	var known []note.Verifier
	for _, key := range keys {
		verifier, err := verifierOf(key)
		if err != nil {
			return err
		}
		known = append(known, verifier)
	}
	read, err := note.Open(data, note.VerifierList(known...))
	if err != nil {
		return err
	}
	signers := []string{}
	for _, each := range read.Sigs {
		signers = append(signers, fmt.Sprintf("%s+%08x", each.Name, each.Hash))
	}
	found["signers"], found["text"] = signers, read.Text
	if lines := strings.Split(read.Text, "\n"); len(lines) > 3 {
		size, bad := decimal(lines[1])
		root, wrong := tlog.ParseHash(lines[2])
		if bad == nil && wrong == nil {
			found["origin"], found["size"], found["root"] = lines[0], size, root
		}
	}
	return nil
}

// proved checks that an event is in a log, by what the proof carries and the keys.
func proved(data []byte, keys []string, found answer) error {
	above, below, _ := strings.Cut(string(data), "\n\n")
	if err := opened([]byte(below), keys, found); err != nil {
		return err
	}
	lines := strings.Split(above, "\n")
	if len(lines) < 3 || lines[0] != "c2sp.org/tlog-proof@v1" || !strings.HasPrefix(lines[1], "extra ") ||
		!strings.HasPrefix(lines[2], "index ") || found["root"] == nil {
		return errors.New("no proof of an event under a checkpoint")
	}
	index, err := decimal(lines[2][len("index "):])
	if err != nil {
		return err
	}
	var path tlog.RecordProof
	for _, line := range lines[3:] {
		side, wrong := tlog.ParseHash(line)
		if wrong != nil {
			return wrong
		}
		path = append(path, side)
	}
	extra, err := base64.StdEncoding.DecodeString(lines[1][len("extra "):])
	if err != nil {
		return err
	}
	leaf, err := linked(extra, found)
	if err != nil {
		return err
	}
	found["index"] = index
	return tlog.CheckRecord(path, found["size"].(int64), found["root"].(tlog.Hash), index, tlog.RecordHash(leaf))
}

// linked returns the hash over an event's columns and the hash before it, as docs/event-log.md says.
func linked(extra []byte, found answer) ([]byte, error) {
	var carried struct {
		Previous string                     `json:"previous"`
		Event    map[string]json.RawMessage `json:"event"`
	}
	if err := json.Unmarshal(extra, &carried); err != nil {
		return nil, err
	}
	message, err := hex.DecodeString(carried.Previous)
	if err != nil || len(message) != sha256.Size {
		return nil, errors.New("no hash of the event before")
	}
	for _, column := range strings.Fields("seq id type version subject operation occurred_at recorded_at actor data") {
		var number int64
		var text string
		if json.Unmarshal(carried.Event[column], &number) == nil {
			message = binary.BigEndian.AppendUint32(append(message, 'i'), 8)
			message = binary.BigEndian.AppendUint64(message, uint64(number))
		} else if err := json.Unmarshal(carried.Event[column], &text); err == nil {
			message = binary.BigEndian.AppendUint32(append(message, 't'), uint32(len(text)))
			message = append(message, text...)
		} else {
			return nil, fmt.Errorf("%s: %w", column, err)
		}
	}
	found["event"] = carried.Event
	leaf := sha256.Sum256(message)
	if said := fmt.Sprintf("%q", hex.EncodeToString(leaf[:])); said != string(carried.Event["hash"]) {
		return nil, errors.New("the event has another hash")
	}
	return leaf[:], nil
}

// cosigner is a witness, of which Go's package knows nothing: it signs the time too.
type cosigner struct {
	name   string
	public ed25519.PublicKey
	secret ed25519.PrivateKey
	time   uint64
}

func (c cosigner) Name() string { return c.name }

func (c cosigner) KeyHash() uint32 {
	sum := sha256.Sum256([]byte(c.name + "\n\x04" + string(c.public)))
	return binary.BigEndian.Uint32(sum[:])
}

func (c cosigner) Verify(text, signature []byte) bool {
	return len(signature) == 8+ed25519.SignatureSize && signature[0] < 0x80 &&
		ed25519.Verify(c.public, cosigned(text, binary.BigEndian.Uint64(signature)), signature[8:])
}

func (c cosigner) Sign(text []byte) ([]byte, error) {
	signed := ed25519.Sign(c.secret, cosigned(text, c.time))
	return append(binary.BigEndian.AppendUint64(nil, c.time), signed...), nil
}

func cosigned(text []byte, time uint64) []byte {
	return append([]byte(fmt.Sprintf("cosignature/v1\ntime %d\n", time)), text...)
}

func verifierOf(key string) (note.Verifier, error) {
	parts := strings.SplitN(key, "+", 3)
	public, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(parts) != 3 || len(public) != 1+ed25519.PublicKeySize || public[0] != 4 {
		return note.NewVerifier(key)
	}
	found := cosigner{name: parts[0], public: public[1:]}
	if fmt.Sprintf("%08x", found.KeyHash()) != parts[1] {
		return nil, errors.New("the hash of the key is another")
	}
	return found, nil
}

func signerOf(key string, time uint64) (note.Signer, error) {
	parts := strings.SplitN(key, "+", 5)
	secret, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(parts) != 5 || len(secret) != 1+ed25519.SeedSize || secret[0] != 4 {
		return note.NewSigner(key)
	}
	pair := ed25519.NewKeyFromSeed(secret[1:])
	return cosigner{parts[2], pair.Public().(ed25519.PublicKey), pair, time}, nil
}

// decimal reads a number that is written in the one way that there is.
func decimal(text string) (int64, error) {
	found, err := strconv.ParseInt(text, 10, 64)
	if err == nil && (found < 0 || strconv.FormatInt(found, 10) != text) {
		err = errors.New("no number: " + text)
	}
	return found, err
}
