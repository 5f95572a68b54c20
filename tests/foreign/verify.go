// Checks our notes, proofs and tiles with golang.org/x/mod/sumdb. Questions are JSON objects on standard input, one
// behind the other. Answers each with a line, "accepted" or "refused: why"; another exit than 0 is a defect of the test.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type question struct {
	Kind, Vkey, Checkpoint, OldCheckpoint, Folder, Name, Text string
	Leaf                                                      []byte
	Index                                                     int64
	Hashes                                                    [][]byte
}

// The folder of tiles as a tlog.TileReader.
type tileFolder string

func (folder tileFolder) Height() int                         { return 8 }
func (folder tileFolder) SaveTiles(_ []tlog.Tile, _ [][]byte) {}
func (folder tileFolder) ReadTiles(tiles []tlog.Tile) (found [][]byte, err error) {
	for _, tile := range tiles {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		data, err := os.ReadFile(filepath.Join(string(folder), path))
		if err != nil {
			return nil, err
		}
		if len(data) != tile.W*tlog.HashSize {
			return nil, fmt.Errorf("%s has %d bytes", path, len(data))
		}
		found = append(found, data)
	}
	return found, nil
}

type refusal struct{ error }

func refuseIf(err error) {
	if err != nil {
		panic(refusal{err})
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

// The tree that a checkpoint signed by this key is about.
func opened(vkey, checkpoint string) tlog.Tree {
	verifier, err := note.NewVerifier(vkey)
	refuseIf(err)
	opened, err := note.Open([]byte(checkpoint), note.VerifierList(verifier))
	refuseIf(err)
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() || lines[3] != "" {
		refuseIf(fmt.Errorf("not the three lines of a checkpoint: %q", opened.Text))
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	refuseIf(err)
	root, err := tlog.ParseHash(lines[2])
	refuseIf(err)
	return tlog.Tree{N: size, Hash: root}
}

func hashes(values [][]byte) (found []tlog.Hash) {
	for _, value := range values {
		var hash tlog.Hash
		if copy(hash[:], value) != len(value) || len(value) != tlog.HashSize {
			refuseIf(fmt.Errorf("a hash of %d bytes", len(value)))
		}
		found = append(found, hash)
	}
	return found
}

func answer(asked question) {
	defer func() {
		switch found := recover().(type) {
		case nil:
		case refusal:
			fmt.Printf("refused: %q\n", found.Error())
		default:
			panic(found)
		}
	}()
	switch asked.Kind {
	case "inclusion":
		tree := opened(asked.Vkey, asked.Checkpoint)
		refuseIf(tlog.CheckRecord(hashes(asked.Hashes), tree.N, tree.Hash, asked.Index, tlog.RecordHash(asked.Leaf)))
	case "consistency":
		old, tree := opened(asked.Vkey, asked.OldCheckpoint), opened(asked.Vkey, asked.Checkpoint)
		refuseIf(tlog.CheckTree(hashes(asked.Hashes), tree.N, tree.Hash, old.N, old.Hash))
	case "tiles": // reading a hash authenticates the tiles it is made of
		tree := opened(asked.Vkey, asked.Checkpoint)
		reader := tlog.TileHashReader(tree, tileFolder(asked.Folder))
		for index := int64(0); index < tree.N; index++ {
			proof, err := tlog.ProveRecord(tree.N, index, reader)
			refuseIf(err)
			leaf, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
			refuseIf(err)
			refuseIf(tlog.CheckRecord(proof, tree.N, tree.Hash, index, leaf[0]))
		}
	case "sign": // a new key of its own, and a note signed with it
		secret, vkey, err := note.GenerateKey(nil, asked.Name)
		must(err)
		signer, err := note.NewSigner(secret)
		must(err)
		signed, err := note.Sign(&note.Note{Text: asked.Text}, signer)
		must(err)
		must(json.NewEncoder(os.Stdout).Encode([]string{secret, vkey, string(signed)}))
		return
	default:
		must(fmt.Errorf("no such question: %s", asked.Kind))
	}
	fmt.Println("accepted")
}

func main() {
	for questions := json.NewDecoder(os.Stdin); questions.More(); {
		var asked question
		must(questions.Decode(&asked))
		answer(asked)
	}
}
