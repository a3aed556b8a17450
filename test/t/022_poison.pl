# One poisoned contact does not stop the other 499 (R30, R62, N8, D8, D10): data that cannot be sent, expressions that
# fail for one, addresses and values that Mailchimp refuses, requests that are refused as a whole. What was refused rests
# until it changes, and heals.

use strict;
use warnings;
use JSON::PP;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 500);
my ($node, $sim, $list) = @$crm{qw(node sim list)};
my $tags = q{tags => 'groups'};

$crm->ann("ALTER TABLE crm.candidate ADD divisor integer DEFAULT 1, ADD born text");
$crm->define(q{'{"FNAME": "first_name", "QUOT": "100 / divisor", "BORN": "born"}'}, $tags, q{linked => 'linked'});
$sim->post('/_sim/act', { list => $list, action => 'add_field', tag => 'BORN', name => 'Born', type => 'date' });

# -----------------------------------------------------------------------------------------------------------------
# All kinds at once
# -----------------------------------------------------------------------------------------------------------------

$crm->ann(q{UPDATE crm.candidate SET email = CASE id
		WHEN 1 THEN NULL WHEN 2 THEN '  ' WHEN 3 THEN 'nonsense' WHEN 4 THEN 'a@b@c.test' WHEN 5 THEN 'no dot@crm.test'
		WHEN 6 THEN 'fake6@crm.test' WHEN 7 THEN 'x@example.com' WHEN 8 THEN 'toomany8@crm.test' END WHERE id <= 8;
	UPDATE crm.candidate SET divisor = 0 WHERE id = 9;
	UPDATE crm.candidate SET born = 'yesterday' WHERE id = 10;
	UPDATE crm.candidate SET first_name = repeat('x', 300) WHERE id = 11;
	UPDATE crm.candidate SET first_name = E'a\tb\nc\u0001\\\\"''\u2028', groups = ARRAY[E'tab\there', 'comma, quote"', ''] WHERE id = 12;
	UPDATE crm.candidate SET first_name = U&'\+01F600 \00e9\4e2d', email = ' C13@CRM.test ' WHERE id = 13});
$crm->sync;
is($crm->rita('SELECT contacts, in_sync, refused, pending FROM mc_audience_status'), '500|490|10|0', 'the other 490 arrive');
is($crm->state($_->[0]), "refused|$_->[1]", "contact $_->[0]: $_->[1]") for [ 1, 'has no e-mail address' ], [ 2, 'has no e-mail address' ],
  [ 3, 'its e-mail address is not valid' ], [ 4, 'its e-mail address is not valid' ], [ 5, 'its e-mail address is not valid' ],
  [ 9, 'division by zero' ];
is($crm->rita("SELECT count(*) FROM mc_failure WHERE contact_key IN ('1', '2', '3', '4', '5')"), 0, 'what is refused here is in no list of failures');
like($crm->failure(9), qr/^push\|\|expression\|division by zero\|\d\|t$/, 'but what an expression says');
like($crm->failure(6), qr/^push\|fake6\@crm\.test\|ERROR_GENERIC\|.*looks fake or invalid, please enter a real email address\.\|1\|t$/,
	'R62: Mailchimp\'s own words for an address that it refuses');
like($crm->state(6), qr/^refused\|.*looks fake or invalid/, 'the state has them, too');
like($crm->failure(8), qr/has signed up to a lot of lists very recently/, 'another reason');
is($crm->rita("SELECT field, detail ~ 'Please enter a valid date' FROM mc_failure WHERE contact_key = '10'"), 'BORN|t', 'a value: its field and the words');
is(length $crm->member('c11@crm.test')->{merge_fields}{FNAME}, 255, 'a long value is cut by Mailchimp');
is($crm->state(11), 'in_sync|', 'which is no difference');
is_deeply($crm->member('c12@crm.test')->{merge_fields}{FNAME}, "a\tb\nc\x{1}\\\"'\x{2028}", 'control characters and quotes');
is_deeply([ sort @{ $crm->member('c12@crm.test')->{tags} } ], [ 'comma, quote"', "tab\there" ], 'odd tags, none empty');
is($crm->member('C13@CRM.test')->{merge_fields}{FNAME}, "\x{1f600} \x{e9}\x{4e2d}", 'other scripts; the address without its blanks');
is($crm->rita("SELECT value, ok FROM mc_status WHERE item = 'failures'"), '5|t', 'mc_status counts failures; what rests until the data are mended is no alarm');

# They rest
$crm->requests;
$crm->sync;
$crm->ann("UPDATE crm.candidate SET first_name = first_name");
$crm->run;
is($crm->requests, '', 'what was refused rests');
is($crm->rita("SELECT max(attempts) FROM mc_failure WHERE title = 'ERROR_GENERIC'"), 1, 'without another attempt');

# Asked for by hand it is tried again (N8)
is($crm->max("SELECT mc_retry('people', 'candidate', '6')"), 1, 'mc_retry of one');
$crm->run;
is($crm->pushed, '1', 'sends it again');
like($crm->failure(6), qr/\|2\|t$/, 'and counts');
is($crm->max("SELECT mc_retry()"), 5, 'mc_retry of all');
$crm->run;
is($crm->pushed, '4', 'sends what can be sent');
is($crm->max("SELECT mc_sync_member('candidate', 6)"), 1, 'mc_sync_member');
$crm->run;
is($crm->pushed, '1', 'does the same for one');
like($node->error("SELECT mc_retry(contact_key => '6')", as => 'max'), qr/22023: a contact is named by its source and its key/, 'a key without a source');
like($node->error("SELECT mc_retry()", as => 'rita'), qr/42501/, 'a reader may not');

# They heal
$crm->ann(q{UPDATE crm.candidate SET email = 'c' || id || '@crm.test' WHERE id <= 8; UPDATE crm.candidate SET divisor = 1 WHERE id = 9;
	UPDATE crm.candidate SET born = '1970-01-31' WHERE id = 10});
$crm->run;
is($crm->status, 'in_sync 500', 'changed, they heal');
is($crm->rita('SELECT count(*) FROM mc_failure'), 0, 'and the failures are gone');
is($crm->shown('c6@crm.test'), 'subscribed|F6|g0', 'R65: also with another address');
is(scalar(keys %{ { $crm->members } }), 500, 'nobody is there twice');

# An expression that fails for somebody who is there: nothing happens to them.
$crm->requests;
$crm->ann("UPDATE crm.candidate SET divisor = 0, first_name = 'new' WHERE id IN (20, 21)");
$crm->run;
is($crm->requests, '', 'an expression that fails for a member');
is($crm->rita("SELECT contact_key, email, state FROM mc_contact_state WHERE state = 'refused' ORDER BY 1"), "20|c20\@crm.test|refused\n21|c21\@crm.test|refused", 'the last address is known');
$crm->ann("UPDATE crm.candidate SET divisor = 1 WHERE id = 20; DELETE FROM crm.candidate WHERE id = 21");
$crm->run;
is($crm->shown('c20@crm.test') . ' ' . $crm->shown('c21@crm.test'), 'subscribed|new|g2 archived|F21|g0', 'heals, or leaves');
is($crm->rita('SELECT count(*) FROM mc_failure'), 0, 'the failure goes with its contact');

# -----------------------------------------------------------------------------------------------------------------
# A request that is refused as a whole: halved until the one to blame is alone
# -----------------------------------------------------------------------------------------------------------------

my $id = $sim->fault(method => 'POST', path => '^/lists/[^/]+$', times => 9, fault => { type => 'status', status => 400, json => JSON::PP::true });
$crm->requests;
$crm->ann("UPDATE crm.candidate SET first_name = 'all' WHERE id <= 300");
$crm->setting(batch_size => 256);
$crm->run;
my @carried = map { scalar @{ $_->{body}{members} } } grep { $_->{status} == 400 } grep { $_->{route} eq 'POST /lists/{list_id}' } $crm->journal;
is($carried[0], 256, 'a whole request is refused');
is(scalar @carried, 9, 'nine times');
ok(!(grep { $carried[$_] > 256 } 0 .. 8), 'none is larger than before');
is($crm->rita("SELECT count(*) FROM mc_contact_state WHERE state = 'pending'"), 0, 'nobody is left waiting');
my $refused = $crm->rita("SELECT count(*) FROM mc_failure");
ok($refused <= 4, "at most those who were alone are to blame ($refused)");
$crm->max('SELECT mc_retry()');
$crm->run;
is($crm->status, 'in_sync 499 outside 1', 'all arrive in the end');
is($crm->rita('SELECT count(*) FROM mc_failure'), 0, 'and no failure is left');

# One at a time: it keeps Mailchimp's words.
$sim->fault(method => 'POST', path => '^/lists/[^/]+$', fault => { type => 'status', status => 400, json => JSON::PP::true });
$crm->ann("UPDATE crm.candidate SET first_name = 'alone' WHERE id = 30");
$crm->run;
like($crm->failure(30), qr/^push\|c30\@crm\.test\|[^|]+\|[^|]+\|1\|t$/, 'alone, it is refused with title and detail');
like($crm->state(30), qr/^refused\|./, 'and rests');
$crm->ann("UPDATE crm.candidate SET first_name = 'better' WHERE id = 30");
$crm->run;
is($crm->shown('c30@crm.test'), 'subscribed|better|g0', 'until it changes');
$crm->setting(batch_size => 500);

# The list is gone: no contact is to blame.
$crm->ann("UPDATE crm.candidate SET first_name = 'gone' WHERE id = 31");
$id = $sim->fault(path => "^/lists/$list\$", times => -1, fault => { type => 'status', status => 404, json => JSON::PP::true });
$crm->requests;
$crm->run;
like($crm->rita('SELECT state, detail FROM mc_audience'), qr/^failing\|[^|]+/, '404: the audience is failing');
is($crm->state(31), 'pending|', 'the contact waits');
is($crm->rita("SELECT count(*) FROM mc_failure WHERE contact_key = '31'"), 0, 'and is not to blame');
$sim->delete("/_sim/faults/$id");
$crm->sync;
is($crm->shown('c31@crm.test') . ' ' . $crm->rita('SELECT state, detail IS NULL FROM mc_audience'), 'subscribed|gone|g1 active|t', 'it is back');

# -----------------------------------------------------------------------------------------------------------------
# Nobody who left is subscribed again (D10)
# -----------------------------------------------------------------------------------------------------------------

my %acts = (40 => 'unsubscribe', 41 => 'clean', 42 => 'archive', 43 => 'admin_unsubscribe', 44 => 'delete_permanent', 45 => 'abuse');
$sim->post('/_sim/act', { list => $list, email => "c$_\@crm.test", action => $acts{$_} }) for sort keys %acts;
$crm->ann("UPDATE crm.candidate SET first_name = 'again' WHERE id BETWEEN 40 AND 46");
$crm->run;
$crm->run;
$crm->ann("UPDATE crm.candidate SET first_name = 'again and again' WHERE id BETWEEN 40 AND 46");
$crm->sync;
my %members = $crm->members;
is(join(' ', map { $members{"c$_\@crm.test"}{status} // 'gone' } 40 .. 46), 'unsubscribed cleaned archived unsubscribed gone unsubscribed subscribed',
	'D10: a push subscribes nobody again');
is($crm->state(40), 'opted_out|is in the opt-out group', 'R45: who unsubscribed has opted out');
is($crm->state(41), 'inactive|cleaned at Mailchimp', 'cleaned: inactive');
is($crm->state(42), 'inactive|archived at Mailchimp', 'archived by somebody there: inactive');
like($crm->state(44), qr/^refused\|./, 'deleted for good: refused');
is($crm->rita("SELECT sum(in_sync + refused + opted_out + inactive + outside), max(contacts) FROM mc_audience_status"), '500|500', 'the states add up');
$crm->requests;
$crm->ann("UPDATE crm.candidate SET first_name = 'once more' WHERE id BETWEEN 40 AND 45");
$crm->run;
is($crm->pushed, '1', 'only the one that Mailchimp does not have is tried again, since it changed');

# Who was there before we were, and had left.
for my $act ('unsubscribe', 'clean', 'archive')
{
	$sim->post('/_sim/act', { list => $list, email => "before-$act\@crm.test", action => 'add' });
	$sim->post('/_sim/act', { list => $list, email => "before-$act\@crm.test", action => $act });
}
$crm->ann("INSERT INTO crm.candidate (id, first_name, email) VALUES (601, 'A', 'before-unsubscribe\@crm.test'), (602, 'A', 'before-clean\@crm.test'),
	(603, 'A', 'before-archive\@crm.test')");
$crm->run;
%members = $crm->members;
is(join(' ', map { $members{"before-$_\@crm.test"}{status} } 'unsubscribe', 'clean', 'archive'), 'unsubscribed cleaned archived', 'D10: nor who was there before');
is(join(' ', map { $crm->state($_) =~ /^(\w+)/ } 601 .. 603), 'opted_out inactive inactive', 'the states say so');

done_testing();
