/*-------------------------------------------------------------------------
 *
 * api.c
 *	  mc_api: a request of one's own (see api.sql).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "ask.h"

PG_FUNCTION_INFO_V1(mc_ask_api);

static char *
text_or_null(FunctionCallInfo fcinfo, int i)
{
	return PG_ARGISNULL(i) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(i));
}

static char *
to_utf8(char *text)
{
	return text == NULL ? NULL : pg_server_to_any(text, strlen(text), PG_UTF8);
}

/* What the answer says, in the memory context of the caller of SPI; NULL: it has no body. */
static char *
ask(FunctionCallInfo fcinfo, MemoryContext context)
{
	McConnection *connection = mc_connection_load(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	McReply *reply =
		mc_ask_logged(connection, "api", 0, text_or_null(fcinfo, 1), text_or_null(fcinfo, 2),
					  to_utf8(text_or_null(fcinfo, 3)), mc_ask_deadline());

	if (reply->outcome != MC_ANSWERED || reply->status < 200 || reply->status > 299)
		mc_reply_raise(reply);
	return reply->json == NULL ? NULL : MemoryContextStrdup(context, mc_json_print(reply->json));
}

/* ask_api(_connection, _method, _path, _body): none but the body is null */
Datum
mc_ask_api(PG_FUNCTION_ARGS)
{
	MemoryContext context = CurrentMemoryContext;
	char *answer;

	/* afterwards it would be too late: the log is a table */
	PreventCommandIfReadOnly("mc_api()");
	SPI_connect();
	answer = ask(fcinfo, context);
	SPI_finish();
	if (answer == NULL)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(answer)));
}
