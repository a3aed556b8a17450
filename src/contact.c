/*-------------------------------------------------------------------------
 *
 * contact.c
 *	  Can a contact's data go over the wire?
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"

#include "compat.h"

PG_FUNCTION_INFO_V1(mc_is_utf8);

/*
 * JSON is UTF-8. The server converts from any encoding that it knows; a
 * SQL_ASCII database holds bytes that it knows nothing of.
 */
Datum
mc_is_utf8(PG_FUNCTION_ARGS)
{
	text *value = PG_GETARG_TEXT_PP(0);

	if (GetDatabaseEncoding() != PG_SQL_ASCII)
		PG_RETURN_BOOL(true);
	PG_RETURN_BOOL(pg_verify_mbstr(PG_UTF8, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), true));
}
