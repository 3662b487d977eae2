/* lz_toc_write.h - what the table of contents of a zstd:chunked layer says about the entries of a tar, and when it cannot.
 *
 * Format: containers/storage, pkg/chunked: one JSON object with the members version (1), entries and tarSplitDigest. Its
 * readers make files from the table and the tar's headers from a tar-split stream, and some compare the two as Go's
 * archive/tar reads them, so a line says what that would: the header's mode with all its bits, times of pax records,
 * device numbers of any type.
 */
#ifndef LZ_TOC_WRITE_H
#define LZ_TOC_WRITE_H

#include "lz_tar.h"

/* Whether it can say all there is to say. `literals` is all of the tar between the content of the entry before and this
 * one's, which begins with `padding` bytes; the entry's own header is its last block. Not for sparse files, names that
 * are not UTF-8, global pax headers, header times of GNU and star, size fields where no content follows, years after
 * 9999, a lone zero block before the header, and the types that have no word. */
bool lz_toc_can_say(const struct lz_tar_entry *entry, const uint8_t *literals, size_t size, size_t padding);

/* Appends `{"type":...,...` of such an entry, without the closing brace. `header` is its last block. 0 or -ENOMEM. */
int lz_toc_put_entry(struct lz_buf *out, const struct lz_tar_entry *entry, const uint8_t *header);

#endif
