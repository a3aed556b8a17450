/*-------------------------------------------------------------------------
 *
 * html.c
 *	  Other people's words as text of a page.
 *
 * A page says that it is UTF-8, but what encoding its bytes get on their way
 * through clients and files is not ours to say. So a page has nothing but ASCII
 * in it: every other character is written as its number, from whatever encoding
 * the database has. What is no character, or none that a page may hold, becomes
 * a blank or U+FFFD; nothing that somebody has typed makes a page fail.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "compat.h"

#define REPLACEMENT 0xFFFD
#define ELLIPSIS "&#8230;"

/* A character is written in up to ten bytes; shortened words take no more than so many times their number of characters. */
#define BYTES_PER_CHARACTER 6

PG_FUNCTION_INFO_V1(mc_html_escape);

static pg_wchar
utf8_character(const char *s, int len, int *used)
{
	*used = pg_utf_mblen((const unsigned char *) s);
	if (*used <= len && pg_utf8_islegal((const unsigned char *) s, *used))
		return utf8_to_unicode((const unsigned char *) s);
	*used = 1;
	return REPLACEMENT;
}

/* A character of the database's encoding, which may have none like it in UTF-8. */
static pg_wchar
server_character(const char *s, int len, int *used, Oid conversion)
{
	unsigned char utf8[MAX_CONVERSION_GROWTH * MAX_MULTIBYTE_CHAR_LEN + 1];
	int ignored;

	*used = Min(pg_encoding_mblen(GetDatabaseEncoding(), s), len);
	if (!OidIsValid(conversion) ||
		pg_do_encoding_conversion_buf(conversion, GetDatabaseEncoding(), PG_UTF8,
									  (unsigned char *) s, *used, utf8, sizeof(utf8),
									  true) != *used)
		return REPLACEMENT;
	return utf8_character((char *) utf8, strlen((char *) utf8), &ignored);
}

/* Control characters, those from 128 on included, which browsers take for something else. */
static bool
is_control(pg_wchar c)
{
	return (c < ' ' && c != '\t' && c != '\n' && c != '\r') || (c >= 0x7F && c <= 0x9F);
}

static bool
is_noncharacter(pg_wchar c)
{
	return (c >= 0xFDD0 && c <= 0xFDEF) || (c & 0xFFFE) == 0xFFFE;
}

static void
write_character(StringInfo out, pg_wchar c)
{
	if (c == '&')
		appendStringInfoString(out, "&amp;");
	else if (c == '<')
		appendStringInfoString(out, "&lt;");
	else if (c == '>')
		appendStringInfoString(out, "&gt;");
	else if (c == '"')
		appendStringInfoString(out, "&quot;");
	else if (is_control(c))
		appendStringInfoChar(out, ' ');
	else if (c > 0x7F || c == '\'')
		appendStringInfo(out, "&#%u;", (unsigned) (is_noncharacter(c) ? REPLACEMENT : c));
	else
		appendStringInfoChar(out, (char) c);
}

/*
 * html_escape(text, length): as text of an element, or of an attribute in quotes. Longer words are shortened to so many
 * characters, fewer where they take many bytes; null: they are not.
 */
Datum
mc_html_escape(PG_FUNCTION_ARGS)
{
	int encoding = GetDatabaseEncoding();
	bool is_utf8 = encoding == PG_UTF8 || encoding == PG_SQL_ASCII;
	int limit = PG_ARGISNULL(1) ? -1 : PG_GETARG_INT32(1);
	Oid conversion = InvalidOid;
	StringInfoData out;
	text *words;
	const char *s;
	int count = 0;
	int room = 0; /* so much of it can stay if it must be shortened */
	int used;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	words = PG_GETARG_TEXT_PP(0);
	if (!is_utf8)
		conversion = FindDefaultConversionProc(encoding, PG_UTF8);
	initStringInfo(&out);
	s = VARDATA_ANY(words);
	for (int left = VARSIZE_ANY_EXHDR(words); left > 0; left -= used, s += used)
	{
		pg_wchar c = (unsigned char) *s;

		CHECK_FOR_INTERRUPTS();
		used = 1;
		if (IS_HIGHBIT_SET(*s))
			c = is_utf8 ? utf8_character(s, left, &used)
						: server_character(s, left, &used, conversion);
		write_character(&out, c);
		if (limit >= 0 && (++count > limit || out.len > limit * BYTES_PER_CHARACTER))
		{
			out.len = room;
			appendStringInfoString(&out, ELLIPSIS);
			break;
		}
		if (count < limit && out.len + (int) strlen(ELLIPSIS) <= limit * BYTES_PER_CHARACTER)
			room = out.len;
	}
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}
