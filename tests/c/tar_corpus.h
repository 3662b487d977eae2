/* tar_corpus.h - what each archive of tests/fuzz/corpus/lz_tar reads as, in the words of tar_listing.h.
 *
 * Each line was held against make_tar_corpus.py and the formats; the hashes come from another implementation.
 */
#ifndef TAR_CORPUS_H
#define TAR_CORPUS_H

#include "base/lz_err.h"

#define THEN "1000000000.000000000"
#define TIMES10(text) text text text text text text text text text text
#define A120 TIMES10("aaaaaaaaaaaa")
#define B120 TIMES10("bbbbbbbbbbbb")
#define LONG A120 "/" B120
#define N100 TIMES10("nnnnnnnnnn")
#define P155 TIMES10("ppppppppppppppp") "ppppp"
#define Q131 TIMES10("qqqqqqqqqqqqq") "q"
#define DOTS22 TIMES10("..") ".."
#define DOTS92 TIMES10(".........") ".."

struct good_archive {
    const char *name, *listing;
};

struct bad_archive {
    const char *name; /* without should-fail- */
    int code;
    const char *detail;
};

static const struct good_archive good_archives[] = {
    {"empty-archive", ""},
    {"empty-stream", ""},
    {"gnu-base256", "f 644 3000000:100 5 17179869184.000000000 file =hello\n"},
    {"gnu-base256-negative-time", "f 644 1000:100 5 -86400.000000000 file =hello\n"},
    {"gnu-long-both", "h 644 1000:100 0 " THEN " " LONG " -> " LONG "\n"},
    {"gnu-long-link", "l 644 1000:100 0 " THEN " soft -> " LONG "\n"},
    {"gnu-long-name", "f 644 1000:100 5 " THEN " " LONG " =hello\n"},
    {"gnu-prefix-is-no-name", "f 644 1000:100 5 " THEN " name =hello\n"},
    {"gnu-sparse", "f 644 1000:100 4096 " THEN " sparse [512+512] [2048+512] #64cc06f198a60d25\n"},
    {"gnu-sparse-all-hole", "f 644 1000:100 9000 " THEN " sparse [hole]\n"},
    {"gnu-sparse-further-blocks",
     "f 644 1000:100 40000 " THEN
     " sparse [0+512] [1024+512] [2048+512] [3072+512] [4096+512] [5120+512] [6144+512] [7168+512]" DOTS22
     " #f70489e259f68f25\n"
     "f 644 1000:100 5 " THEN " next =hello\n"},
    {"gnu-volume-label", "f 644 1000:100 5 " THEN " file =hello\n"},
    {"gnu-volume-label-only", ""},
    {"pax-global-alone", ""},
    {"pax-global-applies-until-taken-back", "f 644 7:100 5 " THEN " own =hello\n"
                                            "f 644 1000:100 5 " THEN " file =hello\n"},
    {"pax-global-between-own-and-entry", "f 644 7:100 5 " THEN " own =hello\n"},
    {"pax-owner-and-time", "f 644 4294967294:3000000 5 1700000000.123456789 file =hello\n"},
    {"pax-path-and-linkpath", "l 644 1000:100 0 " THEN " " LONG " -> " LONG "\n"},
    {"pax-path-with-newline-and-bytes", "f 644 1000:100 5 " THEN " a\\x0ab=\\xff\\xfe =hello\n"},
    {"pax-size-wins", "f 644 1000:100 5 " THEN " file =hello\n"},
    {"pax-solaris-type", "f 644 1000:100 5 " THEN " own =hello\n"},
    {"pax-sparse-0.0", "f 644 1000:100 4096 " THEN " sparse [512+512] [2048+512] #64cc06f198a60d25\n"},
    {"pax-sparse-0.1", "f 644 1000:100 4096 " THEN " sparse [512+512] [2048+512] #64cc06f198a60d25\n"},
    {"pax-sparse-1.0", "f 644 1000:100 4096 " THEN " sparse [512+512] [2048+512] #64cc06f198a60d25\n"},
    {"pax-sparse-1.0-all-hole", "f 644 1000:100 1099511627776 " THEN " sparse [hole]\n"},
    {"pax-sparse-1.0-map-over-two-blocks",
     "f 644 1000:100 2097152 " THEN
     " sparse [1048576+1] [1048584+1] [1048592+1] [1048600+1] [1048608+1] [1048616+1] [1048624+1] [1048632+1]" DOTS92
     " #052c9e7cec411035\n"},
    {"pax-then-gnu-long-name", "f 644 1000:100 5 " THEN " gnu =hello\n"},
    {"pax-time-before-1970", "f 644 1000:100 5 -2.500000000 file =hello\n"},
    {"pax-time-finer-than-a-nanosecond", "f 644 1000:100 5 -1.999999999 file =hello\n"},
    {"pax-two-own-headers", "f 644 7:100 5 " THEN " two =hello\n"},
    {"pax-unknown-records", "f 644 1000:100 5 " THEN " file =hello\n"},
    {"pax-xattr-any-bytes", "f 644 1000:100 5 " THEN " file user.x=\\x00\\x0a=\\xff =hello\n"},
    {"pax-xattr-empty", "f 644 1000:100 5 " THEN " file user.x= =hello\n"},
    {"pax-xattr-last-wins-and-sorted", "f 644 1000:100 5 " THEN " file user.a=1 user.b=2 user.c=3 =hello\n"},
    {"star-prefix", "f 644 1000:100 5 " THEN " " Q131 "/name =hello\n"},
    {"ustar-bytes-after-the-end", "f 644 1000:100 5 " THEN " file =hello\n"},
    {"ustar-contiguous", "f 644 1000:100 5 " THEN " file =hello\n"},
    {"ustar-directory-with-a-size", "d 644 1000:100 0 " THEN " dir\n"},
    {"ustar-empty-numbers", "f 0 0:0 5 0.000000000 file =hello\n"},
    {"ustar-every-type", "f 644 1000:100 5 " THEN " a =hello\n"
                         "h 644 1000:100 0 " THEN " hard -> a\n"
                         "l 644 1000:100 0 " THEN " soft -> a\n"
                         "c 644 1000:100 0 " THEN " char 1,3\n"
                         "b 644 1000:100 0 " THEN " block 8,17\n"
                         "d 644 1000:100 0 " THEN " dir/\n"
                         "p 644 1000:100 0 " THEN " fifo\n"},
    {"ustar-full-fields-without-nul", "f 644 1000:100 5 " THEN " " P155 "/" N100 " =hello\n"},
    {"ustar-half-end-marker", "f 644 1000:100 5 " THEN " file =hello\n"},
    {"ustar-hard-link-with-a-size", "f 644 1000:100 5 " THEN " a =hello\n"
                                    "h 644 1000:100 0 " THEN " hard -> a\n"},
    {"ustar-lone-zero-block", "f 644 1000:100 5 " THEN " one =hello\n"
                              "f 644 1000:100 5 " THEN " two =hello\n"},
    {"ustar-no-end-marker", "f 644 1000:100 5 " THEN " file =hello\n"},
    {"ustar-numbers-after-a-nul", "f 644 1000:100 5 " THEN " file =hello\n"},
    {"ustar-prefix", "f 644 1000:100 5 " THEN " some/where/name =hello\n"},
    {"ustar-signed-checksum", "f 644 1000:100 5 " THEN " \\xe9\\xe8\\xff =hello\n"},
    {"ustar-space-padded-numbers", "f 644 1000:100 5 " THEN " file =hello\n"},
    {"ustar-vendor-type-is-a-file", "f 644 1000:100 5 " THEN " file =hello\n"},
    {"v7-directory-by-slash", "d 644 1000:100 0 " THEN " dir/\n"},
    {"v7-file", "f 644 1000:100 5 " THEN " file =hello\n"},
    {"v7-symlink", "l 644 1000:100 0 " THEN " link -> target\n"},
};

static const struct bad_archive bad_archives[] = {
    {"end-after-long-name", LZ_E_FORMAT, "tar: the archive ends after an extended header, at byte 1536"},
    {"end-after-pax", LZ_E_FORMAT, "tar: the archive ends after an extended header, at byte 1536"},
    {"header-checksum", LZ_E_FORMAT, "tar: header at byte 0: its checksum does not match"},
    {"header-device-negative", LZ_E_FORMAT, "tar: entry at byte 0: device number -1 is out of range"},
    {"header-directory-name-with-content", LZ_E_FORMAT,
     "tar: 'dir/' at byte 0: a name of a directory with 5 bytes of content"},
    {"header-gid-over-32-bits", LZ_E_FORMAT, "tar: entry at byte 0: gid 4294967296 is out of range"},
    {"header-hard-link-to-nothing", LZ_E_FORMAT, "tar: 'link' at byte 0: a link without a target"},
    {"header-link-to-nothing", LZ_E_FORMAT, "tar: 'link' at byte 0: a link without a target"},
    {"header-long-name-size-negative", LZ_E_FORMAT, "tar: entry at byte 0: size -5 is out of range"},
    {"header-no-name", LZ_E_FORMAT, "tar: entry at byte 0 has no name"},
    {"header-size-minus-sign", LZ_E_FORMAT, "tar: entry at byte 0: malformed size"},
    {"header-size-negative", LZ_E_FORMAT, "tar: entry at byte 0: size -1 is out of range"},
    {"header-size-not-octal", LZ_E_FORMAT, "tar: entry at byte 0: malformed size"},
    {"header-size-over-63-bits", LZ_E_FORMAT, "tar: entry at byte 0: malformed size"},
    {"header-size-over-64-bits", LZ_E_FORMAT, "tar: entry at byte 0: malformed size"},
    {"header-size-two-numbers", LZ_E_FORMAT, "tar: entry at byte 0: malformed size"},
    {"header-time-over-64-bits", LZ_E_FORMAT, "tar: entry at byte 0: malformed mtime"},
    {"header-uid-negative", LZ_E_FORMAT, "tar: entry at byte 0: uid -2 is out of range"},
    {"limit-global-size", LZ_E_LIMIT, "tar: global headers take more than 65536 bytes, at byte 512"},
    {"limit-long-name-size", LZ_E_LIMIT, "tar: headers of the entry at byte 0 take more than 8388608 bytes"},
    {"limit-pax-size", LZ_E_LIMIT, "tar: headers of the entry at byte 0 take more than 8388608 bytes"},
    {"pax-gid-text", LZ_E_FORMAT, "tar: entry at byte 0: pax gid: 'wheel' is not a number from 0 to 2^32-1"},
    {"pax-global-malformed-and-no-entry", LZ_E_FORMAT, "tar: entry at byte 0: pax: malformed record at byte 0"},
    {"pax-length-missing", LZ_E_FORMAT, "tar: entry at byte 0: pax: malformed record at byte 0"},
    {"pax-length-negative", LZ_E_FORMAT, "tar: entry at byte 0: pax: malformed record at byte 0"},
    {"pax-length-over-64-bits", LZ_E_FORMAT, "tar: entry at byte 0: pax: malformed record at byte 0"},
    {"pax-length-past-the-end", LZ_E_FORMAT, "tar: entry at byte 0: pax: malformed record at byte 0"},
    {"pax-length-too-short", LZ_E_FORMAT, "tar: entry at byte 0: pax: malformed record at byte 0"},
    {"pax-length-zero", LZ_E_FORMAT, "tar: entry at byte 0: pax: malformed record at byte 0"},
    {"pax-no-equals", LZ_E_FORMAT, "tar: entry at byte 0: pax: record without a key at byte 0"},
    {"pax-no-key", LZ_E_FORMAT, "tar: entry at byte 0: pax: record without a key at byte 0"},
    {"pax-no-newline", LZ_E_FORMAT, "tar: entry at byte 0: pax: malformed record at byte 0"},
    {"pax-nul-in-key", LZ_E_FORMAT, "tar: entry at byte 0: pax: record without a key at byte 0"},
    {"pax-nul-in-linkpath", LZ_E_FORMAT, "tar: entry at byte 0: pax linkpath: a NUL in the value"},
    {"pax-nul-in-path", LZ_E_FORMAT, "tar: entry at byte 0: pax path: a NUL in the value"},
    {"pax-record-begun-in-a-global-header", LZ_E_FORMAT, "tar: entry at byte 0: pax: malformed record at byte 0"},
    {"pax-record-over-two-headers", LZ_E_FORMAT, "tar: entry at byte 0: pax: malformed record at byte 0"},
    {"pax-size-hex", LZ_E_FORMAT, "tar: entry at byte 0: pax size: '0x5' is not a number from 0 to 2^63-1"},
    {"pax-size-negative", LZ_E_FORMAT, "tar: entry at byte 0: pax size: '-1' is not a number from 0 to 2^63-1"},
    {"pax-size-over-63-bits", LZ_E_FORMAT,
     "tar: entry at byte 0: pax size: '9223372036854775808' is not a number from 0 to 2^63-1"},
    {"pax-size-over-64-bits", LZ_E_FORMAT,
     "tar: entry at byte 0: pax size: '18446744073709551621' is not a number from 0 to 2^63-1"},
    {"pax-size-over-stream", LZ_E_TRUNCATED, "tar ends inside a file's content, at byte 3072: entry at byte 0"},
    {"pax-size-under-header", LZ_E_FORMAT, "tar: header at byte 1536: its checksum does not match"},
    {"pax-time-over-63-bits", LZ_E_FORMAT, "tar: entry at byte 0: pax mtime: '9223372036854775808' is not a time"},
    {"pax-time-text", LZ_E_FORMAT, "tar: entry at byte 0: pax mtime: 'yesterday' is not a time"},
    {"pax-time-two-points", LZ_E_FORMAT, "tar: entry at byte 0: pax mtime: '1.2.3' is not a time"},
    {"pax-uid-negative", LZ_E_FORMAT, "tar: entry at byte 0: pax uid: '-1' is not a number from 0 to 2^32-1"},
    {"pax-uid-over-32-bits", LZ_E_FORMAT,
     "tar: entry at byte 0: pax uid: '4294967296' is not a number from 0 to 2^32-1"},
    {"pax-zeros-after-the-records", LZ_E_FORMAT, "tar: entry at byte 0: pax: malformed record at byte 9"},
    {"sparse-1.0-count-over-63-bits", LZ_E_FORMAT, "tar: entry at byte 0: sparse map: not a number"},
    {"sparse-1.0-line-without-end", LZ_E_FORMAT, "tar: entry at byte 0: sparse map: does not end"},
    {"sparse-1.0-map-does-not-end", LZ_E_FORMAT, "tar: entry at byte 0: sparse map: does not end"},
    {"sparse-1.0-map-longer-than-content", LZ_E_FORMAT, "tar: entry at byte 0: sparse map: does not end"},
    {"sparse-1.0-no-content", LZ_E_FORMAT, "tar: entry at byte 0: sparse map: does not end"},
    {"sparse-1.0-not-a-number", LZ_E_FORMAT, "tar: entry at byte 0: sparse map: not a number"},
    {"sparse-backwards", LZ_E_FORMAT, "tar: entry at byte 0: sparse map: segment at 0 overlaps or goes backwards"},
    {"sparse-gnu-map-not-octal", LZ_E_FORMAT, "tar: entry at byte 0: sparse map: malformed number"},
    {"sparse-gnu-negative", LZ_E_FORMAT, "tar: entry at byte 0: sparse map: malformed number"},
    {"sparse-gnu-overlap", LZ_E_FORMAT, "tar: entry at byte 0: sparse map: segment at 100 overlaps or goes backwards"},
    {"sparse-gnu-real-size-negative", LZ_E_FORMAT, "tar: entry at byte 0: real size -1 is out of range"},
    {"sparse-gnu-truncated-map", LZ_E_TRUNCATED, "tar ends inside a sparse map, at byte 512: entry at byte 0"},
    {"sparse-less-stored-than-mapped", LZ_E_FORMAT,
     "tar: 'sparse' at byte 0: sparse map: 1024 bytes up to 1536 do not fit a file of 4096 with 512 stored"},
    {"sparse-map-odd", LZ_E_FORMAT, "tar: entry at byte 0: pax GNU.sparse.map: an offset without a size"},
    {"sparse-map-text", LZ_E_FORMAT, "tar: entry at byte 0: pax GNU.sparse.map: not a list of numbers"},
    {"sparse-more-stored-than-mapped", LZ_E_FORMAT,
     "tar: 'sparse' at byte 0: sparse map: 512 bytes up to 512 do not fit a file of 4096 with 1024 stored"},
    {"sparse-no-real-size", LZ_E_FORMAT,
     "tar: 'file' at byte 0: sparse map: 5 bytes up to 5 do not fit a file of 0 with 5 stored"},
    {"sparse-offset-plus-size-overflows", LZ_E_FORMAT,
     "tar: entry at byte 0: sparse map: segment of 512 bytes at 9223372036854775807 overflows"},
    {"sparse-overlap", LZ_E_FORMAT, "tar: entry at byte 0: sparse map: segment at 256 overlaps or goes backwards"},
    {"sparse-past-real-size", LZ_E_FORMAT,
     "tar: 'sparse' at byte 0: sparse map: 512 bytes up to 4608 do not fit a file of 4096 with 512 stored"},
    {"sparse-real-size-negative", LZ_E_FORMAT, "tar: entry at byte 0: pax GNU.sparse.realsize: not a number"},
    {"sparse-version-1.1", LZ_E_FORMAT, "tar: entry at byte 0: pax: unknown version 1.1 of GNU.sparse"},
    {"sparse-version-2.0", LZ_E_FORMAT, "tar: entry at byte 0: pax: unknown version 2.0 of GNU.sparse"},
    {"truncated-after-pax", LZ_E_TRUNCATED, "tar ends inside an entry, at byte 1024: entry at byte 0"},
    {"truncated-content", LZ_E_TRUNCATED, "tar ends inside a file's content, at byte 1100: entry at byte 0"},
    {"truncated-header", LZ_E_TRUNCATED, "tar ends inside a header, at byte 1324: entry at byte 1024"},
    {"truncated-long-name", LZ_E_TRUNCATED, "tar ends inside an extended header, at byte 700: entry at byte 0"},
    {"truncated-padding", LZ_E_TRUNCATED, "tar ends inside a file's padding, at byte 700: entry at byte 0"},
    {"truncated-pax", LZ_E_TRUNCATED, "tar ends inside an extended header, at byte 520: entry at byte 0"},
    {"truncated-second-header", LZ_E_TRUNCATED, "tar ends inside a header, at byte 1025: entry at byte 1024"},
    {"truncated-size-of-63-bits", LZ_E_TRUNCATED, "tar ends inside a file's content, at byte 1536: entry at byte 0"},
    {"truncated-size-over-stream", LZ_E_TRUNCATED, "tar ends inside a file's content, at byte 1536: entry at byte 0"},
    {"truncated-volume-label", LZ_E_TRUNCATED, "tar ends inside a volume label, at byte 1024: entry at byte 0"},
    {"type-gnu-dumpdir", LZ_E_FORMAT, "tar: entry 'dir' at byte 0: unknown type 0x44"},
    {"type-gnu-multivolume", LZ_E_FORMAT, "tar: entry 'file' at byte 0: unknown type 0x4d"},
    {"type-gnu-sparse-in-ustar", LZ_E_FORMAT, "tar: entry at byte 0: type 'S' in a header that is not GNU tar's"},
    {"type-gnu-names-before-long-name", LZ_E_FORMAT, "tar: entry 'file' at byte 0: unknown type 0x4e"},
    {"type-solaris-acl", LZ_E_FORMAT, "tar: entry 'file' at byte 0: unknown type 0x41"},
    {"type-solaris-attributes", LZ_E_FORMAT, "tar: entry 'file' at byte 0: unknown type 0x45"},
    {"type-unknown", LZ_E_FORMAT, "tar: entry 'file' at byte 0: unknown type 0x39"},
};

#endif
