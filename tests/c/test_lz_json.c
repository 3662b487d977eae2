/* JSON: what is written reads back, what is none is refused at every byte, and base64 both ways. */
#include "bytes/lz_json.h"
#include "check.h"

static struct lz_json json_of(const char *text)
{
    return (struct lz_json){.text = text, .size = strlen(text)};
}

static void texts(void)
{
    struct lz_buf out = {0};
    static const char text[] = "a\"b\\c\n\x1f\xc3\xa9/";
    CHECK_EQ(lz_json_put_text(&out, text, sizeof text - 1), 0);
    CHECK_EQ(lz_buf_append(&out, "", 1), 0);
    CHECK_STR((char *)out.data, "\"a\\\"b\\\\c\\u000a\\u001f\xc3\xa9/\"");
    struct lz_json json = json_of((char *)out.data);
    struct lz_json_text back;
    CHECK_EQ(lz_json_text(&json, &back), 0);
    CHECK_EQ(back.size, out.size - 3);
    CHECK_EQ(lz_json_end(&json), 0);
    lz_buf_free(&out);
}

static void utf8(void)
{
    static const char *const good[] = {"",
                                       "abc",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xef\xbf\xbf",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {"\x80",
                                      "\xc1\xbf",
                                      "\xc2",
                                      "\xc2x",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xff",
                                      "\xe2\x82",
                                      "\xf0\x90\x80x",
                                      "a\xbf"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        CHECK(lz_is_utf8(good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(!lz_is_utf8(bad[i], strlen(bad[i])));
}

static void base64(void)
{
    uint8_t bytes[64];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 67 + 191);
    for (size_t size = 0; size <= sizeof bytes; size++) {
        struct lz_buf out = {0}, back = {0};
        CHECK_EQ(lz_json_put_base64(&out, bytes, size), 0);
        struct lz_json_text text = {(char *)out.data + 1, out.size - 2};
        CHECK(out.data[0] == '"' && out.data[out.size - 1] == '"');
        CHECK_EQ(lz_json_base64(&text, &back), 0);
        CHECK_EQ(back.size, size);
        CHECK(size == 0 || memcmp(back.data, bytes, size) == 0);
        lz_buf_free(&out);
        lz_buf_free(&back);
    }
    static const char *const bad[] = {"a", "ab=", "a===", "ab==ab==", "ab-_", "====", "abc\xff", "=abc"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct lz_buf back = {0};
        struct lz_json_text text = {bad[i], strlen(bad[i])};
        CHECK_EQ(lz_json_base64(&text, &back), LZ_E_FORMAT);
        CHECK_EQ(back.size, 0);
        lz_buf_free(&back);
    }
}

static void values(void)
{
    static const char *const good[] = {"0",
                                       "-0.5e+10",
                                       "1E2",
                                       " true ",
                                       "null",
                                       "false",
                                       "\"\\u12aF\\n\"",
                                       "[]",
                                       "{}",
                                       "[1,[2,{\"a\":[]}],\"x\"]",
                                       "{\"a\":1 , \"b\" : {}}"};
    static const char *const bad[] = {"",           "01",        "-",
                                      "1.",         "1e",        "+1",
                                      "tru",        "nul",       "\"",
                                      "\"\\x\"",    "\"\\u12\"", "\"\n\"",
                                      "[",          "[1",        "[1,]",
                                      "[,1]",       "[1 2]",     "{",
                                      "{\"a\"}",    "{\"a\":}",  "{a:1}",
                                      "{\"a\":1,}", "{\"a\":1",  "]",
                                      "}",          "1 2",       "[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct lz_json json = json_of(good[i]);
        CHECK_EQ(lz_json_skip(&json), 0);
        CHECK_EQ(lz_json_end(&json), 0);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct lz_json json = json_of(bad[i]);
        CHECK(lz_json_skip(&json) == LZ_E_FORMAT || lz_json_end(&json) == LZ_E_FORMAT);
    }
}

static void numbers(void)
{
    static const struct {
        const char *text;
        int rc;
        uint64_t value;
    } cases[] = {{"0", 0, 0},
                 {" 12]", 0, 12},
                 {"9223372036854775807", 0, INT64_MAX},
                 {"9223372036854775808", LZ_E_FORMAT, 0},
                 {"99999999999999999999999", LZ_E_FORMAT, 0},
                 {"-1", LZ_E_FORMAT, 0},
                 {"01", LZ_E_FORMAT, 0},
                 {"1.0", LZ_E_FORMAT, 0},
                 {"1e3", LZ_E_FORMAT, 0},
                 {"\"1\"", LZ_E_FORMAT, 0},
                 {"", LZ_E_FORMAT, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lz_json json = json_of(cases[i].text);
        uint64_t value = 0;
        CHECK_EQ(lz_json_number(&json, &value), cases[i].rc);
        CHECK_EQ(value, cases[i].value);
    }
}

int main(void)
{
    RUN(texts);
    RUN(utf8);
    RUN(base64);
    RUN(values);
    RUN(numbers);
    return check_end();
}
