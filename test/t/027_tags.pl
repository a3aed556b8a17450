# Tags (R67, R68, R69, R71, D16, D20, N5, N8): put on with the push, taken away in bulk through their static segments; only
# ours, never one that was put on by hand. Lost answers are in 028_tag_doubt.pl, what it costs in 029_request_counts.pl.

use strict;
use warnings;
use JSON::PP;
use McCrm;
use McTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $crm = McCrm->start('main', candidates => 30);
my ($node, $sim, $list) = @$crm{qw(node sim list)};
my $push = 'POST /lists/{list_id}';
my $remove = 'POST /lists/{list_id}/segments/{segment_id}';
my $search = 'GET /lists/{list_id}/tag-search';
my $segments = '/segments/\d+$';

$crm->ann("UPDATE crm.candidate SET groups = '{all, a}'");
$crm->act('foreign', 'add', tags => ['a']);
$crm->sync;

# The states while it is under way, and a change meanwhile
$sim->hold(method => 'POST', path => $segments, when => 'before');
$crm->ann("UPDATE crm.candidate SET groups = '{}' WHERE id = 3");
my $session = $node->session(as => 'max');
McTest::begin($session, 'CALL mc_run();');
my ($removal) = $sim->wait_held;
is($crm->state(3), 'pending|', 'N8: who is to lose a tag is pending');
is($crm->status, 'in_sync 29 pending 1', 'the states add up while it is under way');
is($crm->rita("SELECT phase, done, total FROM mc_progress WHERE work = 'push'"), 'sending|29|30', 'mc_progress');
is($crm->max("SELECT action, before -> 'tags', after -> 'tags' FROM mc_preview('people')"), 'tag|["a", "all"]|[]', 'mc_preview: and what it is to lose');
is($crm->rita("SELECT value FROM mc_status WHERE item = 'pending'"), '1', 'mc_status');
$crm->ann("UPDATE crm.candidate SET groups = CASE id WHEN 3 THEN '{a}'::text[] ELSE groups END, last_name = 'Changed' WHERE id IN (3, 4)");
$sim->wait_requests(1, since => $removal->{n}, route => $push);
is(join(' ', map { $_->{email_address} } map { @{ $_->{body}{members} } } $sim->journal(since => $removal->{n}, route => $push)),
	'c4@crm.test', 'who changes meanwhile is not pushed before it ends, the others are');
$sim->release;
$session->query('');
is($crm->tags(3), 'a', 'wanted again while it is taken away: it is put on again');
is($crm->status, 'in_sync 30', 'all in sync');

# -----------------------------------------------------------------------------------------------------------------
# Every way in which a tag comes and goes
# -----------------------------------------------------------------------------------------------------------------

my ($fields) = @McCrm::source;
sub define { $crm->define($fields, @_); return $crm->run }

$crm->ann("ALTER TABLE crm.candidate ADD mailings boolean DEFAULT true, ADD excluded boolean DEFAULT false, ADD kind text;
	UPDATE crm.candidate SET groups = '{}'");
$crm->run;
define(q{tags => 'groups || kind'}, q{tag_rules => '{"Mailingen-ontvangen-nee": "not mailings", "Correspondentie-ontvangen-nee": "excluded"}'});
$crm->costs;
$crm->ann('UPDATE crm.candidate SET mailings = false, excluded = id = 1 WHERE id IN (1, 2)');
is($crm->max("SELECT action, contact_key, after -> 'tags' FROM mc_preview('people')"),
	"tag|1|[\"Correspondentie-ontvangen-nee\", \"Mailingen-ontvangen-nee\"]\ntag|2|[\"Mailingen-ontvangen-nee\"]", 'R71: the preview of tags that come');
$crm->run;
is(join(' ', map { $crm->tags($_) } 1, 2), 'Correspondentie-ontvangen-nee,Mailingen-ontvangen-nee Mailingen-ontvangen-nee', 'R68, R69: tags by a condition');
is(($crm->costs)[0], "1 $push", 'with the contacts');
$crm->ann('UPDATE crm.candidate SET mailings = true, excluded = NULL WHERE id = 1');
$crm->run;
is(join(' ', map { "'" . $crm->tags($_) . "'" } 1, 2), "'' 'Mailingen-ontvangen-nee'", 'R68, R69: and away with it; all of its tags are gone');
is(join(' | ', $crm->costs), "1 $push, 2 $remove | Correspondentie-ontvangen-nee 1, Mailingen-ontvangen-nee 1", 'one request for each tag');

define(q{tags => 'groups || kind'}, q{tag_rules => '{"no mailings": "not mailings"}'});
is($crm->tags(2), 'no mailings', 'a rule of the mapping gives another tag');
is(join(' | ', $crm->costs), "1 $push, 1 $remove | Mailingen-ontvangen-nee 1", 'for whom it concerns');
$crm->ann("UPDATE crm.candidate SET kind = 'client' WHERE id IN (2, 3)");
$crm->run;
$crm->ann("UPDATE crm.candidate SET kind = 'prospect' WHERE id = 2");
$crm->run;
is(join(' ', map { $crm->tags($_) } 2, 3), 'no mailings,prospect client', 'R67: another value, another tag');
$crm->act($_, 'tag', tag => 'by hand') for 'c3', 'c5';
$crm->ann("UPDATE crm.candidate SET last_name = 'Later' WHERE id = 3");
is($crm->max("SELECT action FROM mc_preview('people')"), 'update', 'mc_preview: more than tags differ');
$crm->run;
is($crm->tags(3), 'by hand,client', 'D16: what is pushed later leaves a tag that was put on by hand');

# Any text is a tag.
$crm->ann(q{UPDATE crm.candidate SET groups = ARRAY['R&D / é? 100%_', '日本', '"quoted"', 'it''s', 'a,b', '{}', 'news@crm.test'] WHERE id = 4});
$crm->run;
is(scalar @{ $crm->member('c4@crm.test')->{tags} }, 7, 'R67: tags with all sorts of characters');
$crm->costs;
$crm->ann('UPDATE crm.candidate SET groups = NULL WHERE id = 4');
$crm->run;
is($crm->tags(4), '', 'are put on and taken away');
is(($crm->costs)[0], "1 $push, 7 $remove", 'by segments that the answers to pushes have shown');

# Of more than 50 tags an answer shows 50: Mailchimp is asked for the segment, once.
$crm->act('foreign', 'tag', tag => 'é 66');
$crm->ann("UPDATE crm.candidate SET groups = ARRAY(SELECT 'é ' || g FROM generate_series(1, 52) g) WHERE id IN (4, 5)");
$crm->run;
$crm->costs;
$crm->ann("UPDATE crm.candidate SET groups = array_remove(groups, 'é 6') WHERE id = 4");
$crm->run;
is(scalar @{ $crm->member('c4@crm.test')->{tags} }, 51, 'one of 52 tags is taken away');
is(($crm->costs)[0], "1 $search, 1 $push, 1 $remove", 'its segment is asked for');
is($crm->rita("SELECT path FROM mc_request WHERE work = 'tag' AND method = 'GET'"),
	"/lists/$list/tag-search?name=%c3%a9%20%36&count=1000&offset=0&fields=tags.id,tags.name", 'by its name');
$crm->ann("UPDATE crm.candidate SET groups = array_remove(groups, 'é 6') WHERE id = 5");
$crm->run;
is(($crm->costs)[0], "1 $push, 1 $remove", 'once');
is_deeply($crm->segment('é 66')->{emails}, ['foreign@crm.test'], 'a tag whose name goes on from there is another one');

# Where tags do not differ by case.
$sim->post('/_sim/config', { tag_case => 'ignore' });
$crm->act('c9', 'tag', tag => 'Club');
for my $groups ('{vip, clerk}', '{VIP, clerk}')
{
	$crm->ann("UPDATE crm.candidate SET groups = '$groups' WHERE id = 9");
	$crm->run;
	is($crm->tags(9), 'Club,clerk,vip', "$groups: a tag in another case is the same tag");
}
is($crm->state(9), 'in_sync|', 'of which nothing is to be taken away');
$crm->ann("UPDATE crm.candidate SET groups = '{Clerk}' WHERE id = 9");
$crm->run;
is($crm->tags(9), 'Club,clerk', 'before it is wanted in no case');
$sim->post('/_sim/config', { tag_case => 'exact' });
$crm->ann("UPDATE crm.candidate SET groups = '{One}' WHERE id = 9");
$crm->run;
$crm->ann("UPDATE crm.candidate SET groups = '{ONE}' WHERE id = 9");
$crm->run;
is($crm->tags(9), 'Club,ONE', 'where they do, they are two');

# -----------------------------------------------------------------------------------------------------------------
# What people do at Mailchimp
# -----------------------------------------------------------------------------------------------------------------

$crm->ann("UPDATE crm.candidate SET groups = '{t}' WHERE id IN (6, 7, 8)");
$crm->run;
$crm->act('c6', 'untag', tag => 't');
$crm->costs;
$crm->ann("UPDATE crm.candidate SET groups = '{}' WHERE id = 6");
$crm->run;
is($crm->state(6), 'in_sync|', 'a tag that somebody has taken away by hand already');
is(($crm->costs)[0], "1 $push, 1 $remove", 'is taken away as any other');

$sim->post('/_sim/act', { list => $list, action => 'delete_segment', segment => $crm->segment('t')->{id} });
$crm->act('c7', 'tag', tag => 'T');
$crm->ann("UPDATE crm.candidate SET groups = '{}' WHERE id = 7");
$crm->run;
is($crm->state(7), 'in_sync|', 'a tag that was deleted at Mailchimp');
is(($crm->costs)[0], "1 $search, 1 $push, 1 $remove", 'is asked for when its segment is gone, and not found');
is($crm->tags(7), 'T', 'D16: another one, whose name is like it, is somebody else\'s');
$crm->act($_, 'tag', tag => 't') for 'foreign', 'c8';
$crm->ann("UPDATE crm.candidate SET groups = '{}' WHERE id = 8");
$crm->run;
is($crm->tags(8), '', 'one that was made anew is found');
is(($crm->costs)[0], "1 $search, 1 $push, 1 $remove", 'when it is needed');
is($crm->rita('SELECT count(*) FROM mc_failure'), 0, 'nothing of that is a failure');

# Gone from the list meanwhile, which nobody has told us
$crm->ann("UPDATE crm.candidate SET groups = '{t}' WHERE id IN (6, 7)");
$crm->run;
$sim->hold(method => 'POST', path => $segments, when => 'before');
$crm->ann("UPDATE crm.candidate SET groups = '{}' WHERE id IN (6, 7)");
McTest::begin($session, 'CALL mc_run();');
$sim->wait_held;
$crm->act('c6', 'delete_permanent');
$sim->release;
$session->query('');
is(join(' ', $crm->state(6), $crm->state(7), $crm->tags(7)), 'in_sync| in_sync| T', 'an address that is not on the list has no tags; the others lose theirs');

# Who leaves or opts out and is not there any more has no tags of ours when it comes back by itself.
$crm->ann("UPDATE crm.candidate SET groups = '{t}' WHERE id IN (10, 18)");
$crm->run;
$crm->act($_, 'delete_permanent') for 'c10', 'c18';
$crm->ann("UPDATE crm.candidate SET active = false WHERE id = 10; SELECT mc_opt_out('candidate', 18)");
$crm->run;
for my $who ('c10', 'c18')
{
	$crm->act($who, 'resubscribe');
	$crm->act($who, 'tag', tag => 't');
}
$crm->ann("UPDATE crm.candidate SET active = true, groups = '{}' WHERE id IN (10, 18); SELECT mc_opt_in('candidate', 18)");
$crm->later(601);		# its status is read
$crm->run;
$crm->run;
is(join(' ', map { $crm->shown("c$_\@crm.test") } 10, 18), 'subscribed|F10|t subscribed|F18|t',
	'D16: a tag that a new member has by hand stays, whatever the former one had');

# -----------------------------------------------------------------------------------------------------------------
# With a tag outstanding: leaves and comes back, another address, opts out, another contact takes the address
# -----------------------------------------------------------------------------------------------------------------

# Contacts are to lose tags and cannot, then something happens to them, then they can.
sub outstanding
{
	my ($what, $ids, $groups, $change) = @_;
	$crm->ann("UPDATE crm.candidate SET groups = '{t, u}' WHERE id IN ($ids)");
	$crm->run;
	my $fault = $sim->fault(method => 'POST', path => $segments, times => -1, fault => { type => 'status', status => 429, body => '', headers => { 'retry-after' => '600' } });
	$crm->ann("UPDATE crm.candidate SET groups = $groups WHERE id IN ($ids)");
	$crm->run;
	is($crm->rita("SELECT count(*) FROM mc_contact_state WHERE state = 'pending'"), scalar(my @n = split /,/, $ids), "$what: with a tag outstanding");
	$crm->ann($change);
	$crm->run;
	$sim->delete("/_sim/faults/$fault");
	$crm->later(601);
	$crm->run;
	is($crm->rita("SELECT count(*) FROM mc_contact_state WHERE state = 'pending'"), 0, "$what: nothing is outstanding any more");
}

outstanding('leaving', '11, 12', q{'{u}'}, 'UPDATE crm.candidate SET active = false WHERE id IN (11, 12)');
is($crm->shown('c11@crm.test'), 'archived|F11|t,u', 'who has left keeps what tags there were');
$crm->ann("UPDATE crm.candidate SET active = true WHERE id = 11; UPDATE crm.candidate SET active = true, groups = '{t}' WHERE id = 12");
$crm->run;
is($crm->shown('c11@crm.test') . ' ' . $crm->shown('c12@crm.test'), 'subscribed|F11|u subscribed|F12|t', 'and has those that are wanted when it comes back');

outstanding('another address', '13', q{'{}'}, "UPDATE crm.candidate SET email = 'new13\@crm.test' WHERE id = 13");
is($crm->shown('new13@crm.test') . ' ' . $crm->shown('c13@crm.test'), 'subscribed|F13| none||', 'they are taken from the member that moved');

outstanding('opting out', '14', q{'{}'}, "SELECT mc_opt_out('candidate', 14)");
is($crm->shown('c14@crm.test'), 'unsubscribed|F14|t,u', 'nothing more is done to who has opted out');
is($crm->state(14), 'opted_out|is in the opt-out group', 'whose state says so');

outstanding('an heir', '15', q{'{u}'}, "DELETE FROM crm.candidate WHERE id = 15;
	INSERT INTO crm.candidate (id, first_name, email, groups) VALUES (2015, 'Heir', 'c15\@crm.test', '{v}')");
is($crm->shown('c15@crm.test'), 'subscribed|Heir|v', 'another contact that takes the address has its own tags alone');

# -----------------------------------------------------------------------------------------------------------------
# Refused: Mailchimp's words, the others go on, and the person can be mailed
# -----------------------------------------------------------------------------------------------------------------

$crm->ann("UPDATE crm.candidate SET groups = '{t}' WHERE id BETWEEN 21 AND 24");
$crm->run;
$crm->costs;
$sim->fault(method => 'POST', path => $segments, times => 3, fault => { type => 'status', status => 400, json => JSON::PP::true });
$crm->ann("UPDATE crm.candidate SET groups = '{}' WHERE id BETWEEN 21 AND 24");
$crm->run;
is($crm->status =~ s/in_sync \d+ //r, 'opted_out 1 outside 1 refused 1', 'a request is refused, half of it, and one alone');
my $key = $crm->rita("SELECT contact_key FROM mc_contact_state WHERE state = 'refused'");
is(join(' ', map { $_ == $key ? 't' : $crm->tags($_) } 21 .. 24) =~ tr/t//, 1, 'the others have lost the tag');
is($crm->failure($key), "tag|c$key\@crm.test|Bad Request|Planned by a test.|3|t", 'mc_failure: with the words of Mailchimp');
$crm->costs;
$crm->sync;
is(($crm->costs)[0], '', 'it rests');
$crm->ann("SELECT mc_create_campaign('News', 'people', 'Newsletter', 'Demo', 'news\@example.org');
	SELECT mc_add_recipients(1, 'candidate', ARRAY[$key]); SELECT mc_prepare_campaign(1)");
$crm->run;
is($crm->rita('SELECT status, skip_reason FROM mc_campaign_recipient'), 'pending|', 'a tag too many is no reason not to mail somebody');
is($crm->max("SELECT mc_retry(source => 'candidate', contact_key => '$key')"), 1, 'mc_retry');
$crm->run;
is($crm->state($key), 'in_sync|', 'it is taken away');
like($crm->tags($key), qr/^News \[\w+\]$/, 'the segment of a campaign is not');
is($crm->rita('SELECT count(*) FROM mc_failure'), 0, 'and the failure with it');

# A tag of the mapping that has the name of a campaign's segment
my ($name) = $crm->tags($key);
$crm->ann("UPDATE crm.candidate SET groups = '{$name}' WHERE id = $key");
$crm->run;
$crm->ann("UPDATE crm.candidate SET groups = '{}' WHERE id = $key");
$crm->run;
is($crm->state($key) . $crm->tags($key), "in_sync|$name", 'nobody is taken out of the segment of a campaign');

# What was refused is forgotten with the contact.
$sim->fault(method => 'POST', path => $segments, fault => { type => 'status', status => 400, json => JSON::PP::true });
$crm->ann("UPDATE crm.candidate SET groups = '{t}' WHERE id = 20");
$crm->run;
$crm->ann("UPDATE crm.candidate SET groups = '{}' WHERE id = 20");
$crm->run;
is($crm->state(20), 'refused|Planned by a test.', 'alone at once');
$crm->ann('UPDATE crm.candidate SET active = false WHERE id = 20');
$crm->run;
is($crm->state(20) . $crm->rita('SELECT count(*) FROM mc_failure'), 'outside|the rule does not take it0', 'who leaves has no failure left');

# A refused search
$crm->ann("UPDATE crm.candidate SET groups = ARRAY(SELECT 's' || g FROM generate_series(1, 51) g) WHERE id = 25");
$crm->run;
my $fault = $sim->fault(method => 'GET', path => '/tag-search', times => -1, fault => { type => 'status', status => 400, json => JSON::PP::true });
$crm->ann("UPDATE crm.candidate SET groups = array_remove(groups, 's9') WHERE id = 25");
$crm->run;
like($crm->rita("SELECT work, audience, contact_key, title, attempts > 0, next_attempt_at > now() FROM mc_failure"), qr/^tag\|people\|\|Bad Request\|t\|t$/, 'a search that is refused');
$sim->delete("/_sim/faults/$fault");
$crm->later(301);
$crm->run;
is($crm->state(25), 'in_sync|', 'is tried again');
unlike($crm->tags(25), qr/\bs9\b/, 'and then the tag goes');
is($crm->rita('SELECT count(*) FROM mc_failure'), 0, 'until it works');

# R71: one list serves many campaigns, since each tag has exactly the people that the CRM says; who has a no-tag can be left out
# of the link.
$crm->ann('UPDATE crm.candidate SET active = false WHERE id IN (4, 5, 25)');	# with 50 tags each
$crm->ann("UPDATE crm.candidate SET groups = ARRAY['even', 'odd', 'third'], mailings = true WHERE id > 25");
$crm->run;
$crm->ann("UPDATE crm.candidate SET groups = array_remove(array_remove(groups, CASE id % 2 WHEN 0 THEN 'odd' ELSE 'even' END),
	CASE WHEN id % 3 > 0 THEN 'third' END), mailings = id < 29 WHERE id > 25");
$crm->run;
is_deeply($crm->segment($_)->{emails}, [ split /\n/, $crm->ann("SELECT email FROM crm.candidate
		WHERE '$_' = ANY (groups || CASE WHEN NOT mailings THEN 'no mailings' END) ORDER BY 1") ], "R71: the people with the tag $_")
  for 'even', 'odd', 'third', 'no mailings';
define(q{tags => 'groups || kind'}, q{linked => 'linked AND mailings'});
is($crm->state(29) . ' ' . $crm->shown('c29@crm.test') =~ s/\|.*//r, 'not_linked|its link flag is off archived', 'R71: or is not in the list at all');

# The mapping has no tags any more.
define();
is(join('|', map { $crm->tags($_) } 2, 26 .. 30), '|||||', 'a mapping without tags takes all of ours away');
is(join('|', map { $crm->tags($_) } 3, 9), 'by hand|Club', 'D16: and none that was put on by hand');
is($crm->status =~ s/in_sync \d+ //r, 'opted_out 1 outside 5', 'nobody is left behind');

# Dropped while a tag is taken away; made anew on the same list, and switched to another account
$crm->ann("UPDATE crm.candidate SET groups = '{one}' WHERE id > 20");
define(@McCrm::source[1, 2]);
$sim->hold(method => 'POST', path => $segments, when => 'before');
$crm->ann("UPDATE crm.candidate SET groups = '{two}' WHERE id > 20");
my $log = $node->log_end;
McTest::begin($session, 'CALL mc_run();');
$sim->wait_held;
$crm->ann("SELECT mc_drop_audience('people')");
$sim->release;
$session->query('');
$session->quit;
is($node->query('SELECT (SELECT count(*) FROM mailchimp_sync.tag), (SELECT count(*) FROM mailchimp_sync.member)'), '0|0', 'mc_drop_audience');
unlike(slurp_file($node->logfile, $log), qr/WARNING/, 'in the middle of a removal');
$crm->ann("SELECT mc_create_audience('people', 'main', 'Customers', 'candidate', 'active AND id > 20')");
$crm->sync;
is($node->query('SELECT tag, segment_id FROM mailchimp_sync.tag'), 'two|' . $crm->segment('two')->{id}, 'made anew');
$sim->post('/_sim/accounts', { key => 'second-us1', account_name => 'Second', lists => [ { name => 'Plain' } ] });
$crm->ann("SELECT mc_connect('main', 'second-us1', switch_account => true)");
is($node->query('SELECT count(*) FROM mailchimp_sync.tag'), 0, 'another account has other segments');

done_testing();
