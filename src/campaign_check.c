/*-------------------------------------------------------------------------
 *
 * campaign_check.c
 *	  Asking Mailchimp now what a campaign still lacks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "ask.h"
#include "compat.h"
#include "engine.h"

PG_FUNCTION_INFO_V1(mc_send_checklist);

static Datum
text_datum(const cJSON *object, const char *name, bool *isnull)
{
	char *value = mc_json_text(object, name);

	*isnull = value == NULL;
	return value != NULL ? CStringGetTextDatum(value) : (Datum) 0;
}

/* send_checklist(connection, mailchimp_id): Mailchimp's own checklist, as it is now */
Datum
mc_send_checklist(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *set = (ReturnSetInfo *) fcinfo->resultinfo;
	McConnection *connection = mc_connection_load(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	char *path = psprintf("/campaigns/%s/send-checklist", text_to_cstring(PG_GETARG_TEXT_PP(1)));
	McReply *reply = mc_ask(connection, "GET", path, NULL, mc_ask_deadline());
	const cJSON *item;

	if (!mc_reply_ok(reply))
		mc_reply_raise(reply);
	InitMaterializedSRF(fcinfo, 0);
	cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(reply->json, "items"))
	{
		Datum values[3];
		bool nulls[3];

		values[0] = text_datum(item, "type", &nulls[0]);
		values[1] = text_datum(item, "heading", &nulls[1]);
		values[2] = text_datum(item, "details", &nulls[2]);
		tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
	}
	return (Datum) 0;
}
